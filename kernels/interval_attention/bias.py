"""The relative bias of attention: one learned number per distance and one per log of elapsed time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ingest.runtime.errors import FreshetError
from kernels.interval_attention.checks import check_column

LOG_STEP = 0.301


@dataclass(frozen=True, kw_only=True)
class PositionBias:
    """Shapes: `table` [P]; `q_positions` int64[Tq]."""

    table: Tensor
    q_positions: Tensor


@dataclass(frozen=True, kw_only=True)
class TimeBias:
    """Shapes: `table` [NB]; `q_times_ms` int64[Tq]; `kv_times_ms` int64[Tk]."""

    table: Tensor
    q_times_ms: Tensor
    kv_times_ms: Tensor


@dataclass(frozen=True, kw_only=True)
class Bias:
    """The bias by distance and the one by elapsed time; None where there is no such bias."""

    position: PositionBias | None = None
    time: TimeBias | None = None


def checked_bias(
    position_bias: Tensor | None,
    time_bias: Tensor | None,
    q_positions: Tensor | None,
    q_times_ms: Tensor | None,
    kv_times_ms: Tensor | None,
    *,
    q: Tensor,
    k: Tensor,
    offsets: Tensor,
) -> Bias:
    """Check and gather the bias arguments of `interval_attention`."""
    position, time = None, None
    if position_bias is not None:
        _check_table("position_bias", position_bias, q)
        q_positions = _places(offsets, q) if q_positions is None else q_positions
        check_column("q_positions", q_positions, q)
        position = PositionBias(table=position_bias, q_positions=q_positions)
    elif q_positions is not None:
        raise FreshetError(
            "interval attention refuses q_positions", detail="They come without a position_bias."
        )
    if time_bias is not None and q_times_ms is not None and kv_times_ms is not None:
        _check_table("time_bias", time_bias, q)
        check_column("q_times_ms", q_times_ms, q)
        check_column("kv_times_ms", kv_times_ms, k)
        time = TimeBias(table=time_bias, q_times_ms=q_times_ms, kv_times_ms=kv_times_ms)
    elif not (time_bias is None and q_times_ms is None and kv_times_ms is None):
        raise FreshetError(
            "interval attention refuses its times",
            detail="time_bias, q_times_ms and kv_times_ms come together or not at all.",
        )
    return Bias(position=position, time=time)


def time_bucket(elapsed_ms: Tensor, num_buckets: int) -> Tensor:
    """floor(ln(max(1, elapsed seconds)) / 0.301), at most num_buckets - 1.

    Read off whole-millisecond boundaries, so it is the same number on every device.

    Shapes: int64 of any shape -> int32 of that shape.

    Example:
        >>> time_bucket(torch.tensor([-5, 1_000, 2_000, 86_400_000]), 64).tolist()
        [0, 0, 2, 37]
    """
    edges = edges_ms(num_buckets).to(elapsed_ms.device)
    return torch.bucketize(elapsed_ms, edges, right=True, out_int32=True)


def edges_ms(num_buckets: int) -> Tensor:
    """The least elapsed milliseconds of buckets 1 to num_buckets - 1.

    Shapes: int64[num_buckets-1], ascending.

    Example:
        >>> edges_ms(4).tolist()
        [1352, 1826, 2467]
    """
    edges = [math.ceil(1000 * math.exp(LOG_STEP * bucket)) for bucket in range(1, num_buckets)]
    return torch.tensor([min(edge, 2**62) for edge in edges], dtype=torch.int64)


def _places(offsets: Tensor, q: Tensor) -> Tensor:
    """`jagged.positions_of`, of a length known without reading the offsets."""
    row = torch.arange(q.shape[0], device=q.device)
    return row - offsets[torch.bucketize(row, offsets.contiguous(), right=True) - 1]


def _check_table(name: str, table: Tensor, like: Tensor) -> None:
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
