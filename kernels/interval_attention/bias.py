"""The relative bias of attention: one learned number per distance and one per log of elapsed time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ingest.runtime.errors import FreshetError
from kernels.interval_attention.checks import check_column
from kernels.jagged import positions_of

_LOG_STEP = 0.301


@dataclass(frozen=True, kw_only=True)
class BiasIndex:
    """The two tables as one, and what looks numbers up in it.

    Shapes: `table` [P*NB], position_bias[p] + time_bias[b] at p*NB+b; `q_positions`, `q_times_ms`
    int64[Tq]; `kv_times_ms` int64[Tk].
    """

    table: Tensor
    num_time_buckets: int
    q_positions: Tensor
    q_times_ms: Tensor
    kv_times_ms: Tensor

    def look_up(self, q_positions: Tensor, q_times_ms: Tensor, kv_times_ms: Tensor) -> Tensor:
        """int64 [B,n], [B,n], [B,m] -> [B,n,m]."""
        num_positions = len(self.table) // self.num_time_buckets
        column = torch.arange(kv_times_ms.shape[1], dtype=torch.int32, device=self.table.device)
        distance = (q_positions.int()[:, :, None] - column).clamp_(0, num_positions - 1)
        elapsed_ms = q_times_ms[:, :, None] - kv_times_ms[:, None, :]
        bucket = time_bucket(elapsed_ms, self.num_time_buckets)
        index = distance.mul_(self.num_time_buckets).add_(bucket)
        return self.table.index_select(0, index.flatten()).view(index.shape)


def bias_index(
    position_bias: Tensor | None,
    time_bias: Tensor | None,
    q_positions: Tensor | None,
    q_times_ms: Tensor | None,
    kv_times_ms: Tensor | None,
    *,
    q: Tensor,
    k: Tensor,
    offsets: Tensor,
) -> BiasIndex | None:
    """Check and join the bias arguments of `interval_attention`; None when there is no bias."""
    if (time_bias is None) != (q_times_ms is None) or (time_bias is None) != (kv_times_ms is None):
        raise FreshetError(
            "interval attention refuses its times",
            detail="time_bias, q_times_ms and kv_times_ms come together or not at all.",
        )
    if position_bias is None and q_positions is not None:
        raise FreshetError(
            "interval attention refuses q_positions", detail="They come without a position_bias."
        )
    if position_bias is None and time_bias is None:
        return None
    positions = _table("position_bias", position_bias, q)
    times = _table("time_bias", time_bias, q)
    if q_positions is None:
        q_positions = positions_of(offsets.diff())
    q_times_ms = torch.zeros_like(q_positions) if q_times_ms is None else q_times_ms
    if kv_times_ms is None:
        kv_times_ms = torch.zeros(len(k), dtype=torch.int64, device=k.device)
    check_column("q_positions", q_positions, q)
    check_column("q_times_ms", q_times_ms, q)
    check_column("kv_times_ms", kv_times_ms, k)
    return BiasIndex(
        table=(positions[:, None] + times).flatten(),
        num_time_buckets=len(times),
        q_positions=q_positions,
        q_times_ms=q_times_ms,
        kv_times_ms=kv_times_ms,
    )


def time_bucket(elapsed_ms: Tensor, num_buckets: int) -> Tensor:
    """floor(ln(max(1, elapsed seconds)) / 0.301), at most num_buckets - 1.

    Read off whole-millisecond boundaries, so it is the same number on every device.

    Shapes: int64 of any shape -> int32 of that shape.

    Example:
        >>> time_bucket(torch.tensor([-5, 1_000, 2_000, 86_400_000]), 64).tolist()
        [0, 0, 2, 37]
    """
    edges = _edges(num_buckets).to(elapsed_ms.device)
    return torch.bucketize(elapsed_ms, edges, right=True, out_int32=True)


@cache
def _edges(num_buckets: int) -> Tensor:
    edges = [math.ceil(1000 * math.exp(_LOG_STEP * bucket)) for bucket in range(1, num_buckets)]
    return torch.tensor([min(edge, 2**62) for edge in edges], dtype=torch.int64)


def _table(name: str, table: Tensor | None, like: Tensor) -> Tensor:
    if table is None:
        return like.new_zeros(1)
    if (
        table.dim() != 1
        or not len(table)
        or (table.dtype, table.device) != (like.dtype, like.device)
    ):
        raise FreshetError(
            f"interval attention refuses {name}",
            detail=f"It is {tuple(table.shape)} {table.dtype} {table.device}, not one-dimensional "
            f"{like.dtype} on {like.device}.",
        )
    return table
