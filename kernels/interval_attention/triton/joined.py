"""Both biases as one table, which is what a kernel reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.interval_attention.bias import Bias


@dataclass(frozen=True, kw_only=True)
class JoinedBias:
    """Row p*NB+b of the table is position_bias[p] + time_bias[b]; an absent bias counts as one 0.

    Shapes: `table` [P*NB]; `q_positions`, `q_times_ms` int64[Tq]; `kv_times_ms` int64[Tk].
    """

    table: Tensor
    num_time_buckets: int
    q_positions: Tensor
    q_times_ms: Tensor
    kv_times_ms: Tensor


def join(bias: Bias, q: Tensor, k: Tensor) -> JoinedBias | None:
    """One table of both, with gradients to each; None where there is neither.

    Shapes: q [Tq,H,D], k [Tk,H,D]: for the number of rows, the type and the device.
    """
    position, time = bias.position, bias.time
    if position is None and time is None:
        return None
    by_distance = q.new_zeros(1) if position is None else position.table
    by_bucket = q.new_zeros(1) if time is None else time.table
    rows = torch.zeros(len(q), dtype=torch.int64, device=q.device)
    columns = torch.zeros(len(k), dtype=torch.int64, device=k.device)
    return JoinedBias(
        table=(by_distance[:, None] + by_bucket).flatten(),
        num_time_buckets=len(by_bucket),
        q_positions=rows if position is None else position.q_positions.contiguous(),
        q_times_ms=rows if time is None else time.q_times_ms.contiguous(),
        kv_times_ms=columns if time is None else time.kv_times_ms.contiguous(),
    )
