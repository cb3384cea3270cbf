"""How the kernels are launched: block sizes, tiles of ragged sequences, arguments."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from kernels.interval_attention.bias import edges_ms
from kernels.interval_attention.triton.backward import (
    key_value_gradient_kernel,
    query_gradient_kernel,
    row_spans_kernel,
)
from kernels.interval_attention.triton.bias_gradient import bias_gradient_kernel
from kernels.interval_attention.triton.forward import forward_kernel
from kernels.interval_attention.triton.joined import JoinedBias
from kernels.jagged import offsets_of

Kernel = Literal["forward", "query_gradient", "key_value_gradient", "bias_gradient"]


@dataclass(frozen=True)
class Configuration:
    """Rows and columns of a tile, warps of a program, and tiles in flight."""

    block_rows: int
    block_columns: int
    num_warps: int
    num_stages: int


# (kernel, wide, 32-bit): wide is a D or V above 64, very wide one above 128. The choice is a function
# of the kernel, the widths and the type alone: a tuner's choice would change the bits between runs.
_CONFIGURATIONS: dict[tuple[Kernel, int, bool], Configuration] = {
    ("forward", 64, False): Configuration(64, 64, 4, 3),
    ("forward", 128, False): Configuration(64, 64, 8, 2),
    ("forward", 256, False): Configuration(64, 32, 4, 2),
    ("forward", 64, True): Configuration(32, 32, 4, 2),
    ("forward", 128, True): Configuration(32, 32, 4, 1),
    ("forward", 256, True): Configuration(16, 16, 4, 1),
    ("query_gradient", 64, False): Configuration(64, 64, 8, 2),
    ("query_gradient", 128, False): Configuration(64, 64, 8, 2),
    ("query_gradient", 256, False): Configuration(64, 32, 8, 1),
    ("query_gradient", 64, True): Configuration(32, 32, 4, 1),
    ("query_gradient", 128, True): Configuration(32, 32, 4, 1),
    ("query_gradient", 256, True): Configuration(16, 16, 4, 1),
    ("key_value_gradient", 64, False): Configuration(32, 64, 8, 2),
    ("key_value_gradient", 128, False): Configuration(32, 64, 8, 2),
    ("key_value_gradient", 256, False): Configuration(32, 64, 8, 1),
    ("key_value_gradient", 64, True): Configuration(32, 32, 4, 1),
    ("key_value_gradient", 128, True): Configuration(32, 32, 4, 1),
    ("key_value_gradient", 256, True): Configuration(16, 16, 4, 1),
    ("bias_gradient", 64, False): Configuration(64, 16, 8, 1),
    ("bias_gradient", 128, False): Configuration(64, 16, 8, 2),
    ("bias_gradient", 256, False): Configuration(64, 32, 4, 1),
    ("bias_gradient", 64, True): Configuration(32, 32, 4, 1),
    ("bias_gradient", 128, True): Configuration(32, 32, 4, 1),
    ("bias_gradient", 256, True): Configuration(16, 16, 4, 1),
}


def configuration(kernel: Kernel, width: int, dtype: torch.dtype) -> Configuration:
    """The block sizes of a kernel; `width` is the larger of D and V."""
    size = next(limit for limit in (64, 128, 256) if width <= limit)
    return _CONFIGURATIONS[kernel, size, dtype == torch.float32]


def padded(width: int) -> int:
    """The power of two a width is padded to."""
    return max(16, 1 << (width - 1).bit_length())


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Sequences cut into blocks of rows, each beginning at its sequence's start.

    Shapes: `sequences` int32[num], B where no tile is left; `first` int32[B+1], a sequence's first.
    `num` is bound by lengths alone known on the host, so nothing waits for the device.
    """

    num: int
    sequences: Tensor
    first: Tensor


def tiles_of(offsets: Tensor, num_rows: int, block: int) -> Tiles:
    """Cut `num_rows` rows in sequences at `offsets` int64[B+1]."""
    num_sequences = len(offsets) - 1
    num = (num_rows + num_sequences * (block - 1)) // block
    first = offsets_of((offsets.diff() + block - 1) // block)
    tile = torch.arange(num, device=offsets.device)
    sequences = torch.searchsorted(first, tile, right=True) - 1
    return Tiles(num=num, sequences=sequences.int(), first=first.int())


@dataclass(frozen=True, kw_only=True)
class Call:
    """The arguments of one attention that every kernel of it takes."""

    q: Tensor
    k: Tensor
    v: Tensor
    q_offsets: Tensor
    kv_offsets: Tensor
    intervals: Tensor
    softmax: bool
    scale: float
    divisor: float
    bias: JoinedBias | None

    def configuration(self, kernel: Kernel) -> Configuration:
        """The block sizes this call takes."""
        return configuration(kernel, max(self.q.shape[2], self.v.shape[2]), self.q.dtype)

    def arguments(self, chosen: Configuration) -> dict[str, Any]:
        """What all kernels name alike; without a bias its pointers point to what is never read."""
        bias, unread = self.bias, self.q_offsets
        return {
            "q": self.q, "k": self.k, "v": self.v,
            "q_offsets": self.q_offsets, "kv_offsets": self.kv_offsets,
            "intervals": self.intervals,
            "table": self.q if bias is None else bias.table,
            "edges": unread if bias is None else edges_on(bias.num_time_buckets, self.q.device),
            "q_positions": unread if bias is None else bias.q_positions,
            "q_times": unread if bias is None else bias.q_times_ms,
            "kv_times": unread if bias is None else bias.kv_times_ms,
            "num_sequences": len(self.q_offsets) - 1,
            "num_positions": 1 if bias is None else len(bias.table) // bias.num_time_buckets,
            "scale": self.scale, "divisor": self.divisor,
            "q_row": self.q.stride(0), "q_head": self.q.stride(1),
            "k_row": self.k.stride(0), "k_head": self.k.stride(1),
            "v_row": self.v.stride(0), "v_head": self.v.stride(1),
            "SOFTMAX": self.softmax,
            "NUM_BUCKETS": 1 if bias is None else bias.num_time_buckets,
            "WIDTH": self.q.shape[2], "VALUE_WIDTH": self.v.shape[2],
            "BLOCK_WIDTH": padded(self.q.shape[2]), "BLOCK_VALUE": padded(self.v.shape[2]),
            "BLOCK_ROWS": chosen.block_rows, "BLOCK_COLUMNS": chosen.block_columns,
            "num_warps": chosen.num_warps, "num_stages": chosen.num_stages,
        }  # fmt: skip


@cache
def edges_on(num_buckets: int, device: torch.device) -> Tensor:
    """The boundaries of the time buckets, int64[max(NB-1,1)], on a device."""
    edges = edges_ms(num_buckets)
    return (edges if len(edges) else edges.new_zeros(1)).to(device)


def forward(call: Call) -> tuple[Tensor, Tensor]:
    """The output [Tq,H,V], and log_sums float32[Tq,H] for softmax (else empty)."""
    num_rows, num_heads = call.q.shape[:2]
    out = call.q.new_empty(num_rows, num_heads, call.v.shape[2])
    log_sums = _scratch(call, call.softmax)
    chosen = call.configuration("forward")
    tiles = tiles_of(call.q_offsets, num_rows, chosen.block_rows)
    if tiles.num and num_heads:
        forward_kernel[tiles.num, num_heads](
            out=out, log_sums=log_sums, tile_sequences=tiles.sequences, first_tiles=tiles.first,
            HAS_BIAS=call.bias is not None, **call.arguments(chosen),
        )  # fmt: skip
    return out, log_sums


def query_gradient(
    call: Call, out: Tensor, log_sums: Tensor, out_gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradient of q, and deltas float32[Tq,H] for softmax: each row's <out, its gradient>."""
    deltas = _scratch(call, call.softmax)
    num_rows, num_heads, width = call.q.shape
    gradient = call.q.new_empty(num_rows, num_heads, width)
    chosen = call.configuration("query_gradient")
    tiles = tiles_of(call.q_offsets, num_rows, chosen.block_rows)
    if tiles.num and num_heads:
        query_gradient_kernel[tiles.num, num_heads](
            out=out, log_sums=log_sums, out_gradient=out_gradient, deltas=deltas,
            q_gradient=gradient, tile_sequences=tiles.sequences, first_tiles=tiles.first,
            HAS_BIAS=call.bias is not None, **call.arguments(chosen),
        )  # fmt: skip
    return gradient, deltas


def key_value_gradient(
    call: Call, log_sums: Tensor, deltas: Tensor, out_gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of k and v."""
    num_columns, num_heads, width = call.k.shape
    k_gradient = call.k.new_empty(num_columns, num_heads, width)
    v_gradient = call.v.new_empty(num_columns, num_heads, call.v.shape[2])
    chosen = call.configuration("key_value_gradient")
    row_tiles = tiles_of(call.q_offsets, len(call.q), chosen.block_rows)
    tiles = tiles_of(call.kv_offsets, num_columns, chosen.block_columns)
    spans = row_tiles.first.new_empty(row_tiles.num, 4)
    if row_tiles.num:
        row_spans_kernel[(row_tiles.num,)](
            call.q_offsets, call.intervals, row_tiles.sequences, row_tiles.first, spans,
            len(call.q_offsets) - 1, BLOCK_ROWS=chosen.block_rows,
        )  # fmt: skip
    if tiles.num and num_heads:
        key_value_gradient_kernel[tiles.num, num_heads](
            log_sums=log_sums, deltas=deltas, out_gradient=out_gradient,
            k_gradient=k_gradient, v_gradient=v_gradient, spans=spans,
            first_row_tiles=row_tiles.first, tile_sequences=tiles.sequences,
            first_tiles=tiles.first, HAS_BIAS=call.bias is not None, **call.arguments(chosen),
        )  # fmt: skip
    return k_gradient, v_gradient


def bias_gradient(
    call: Call, bias: JoinedBias, log_sums: Tensor, deltas: Tensor, out_gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """The score gradients summed by distance, float32[P], and by time bucket, float32[NB]."""
    num_rows, num_heads = call.q.shape[:2]
    num_buckets = bias.num_time_buckets
    num_positions = len(bias.table) // num_buckets
    chosen = call.configuration("bias_gradient")
    tiles = tiles_of(call.q_offsets, num_rows, chosen.block_rows)
    # With one distance its sum is that of the buckets: it is not worth a search.
    has_positions = num_positions > 1 or num_buckets == 1
    rows = tiles.num if has_positions else 0
    by_distance = torch.zeros(rows, num_positions, device=call.q.device)
    by_bucket = torch.zeros(tiles.num, num_buckets, device=call.q.device)
    if tiles.num:
        bias_gradient_kernel[(tiles.num,)](
            log_sums=log_sums, deltas=deltas, out_gradient=out_gradient,
            position_partials=by_distance, time_partials=by_bucket,
            tile_sequences=tiles.sequences, first_tiles=tiles.first, num_heads=num_heads,
            HAS_POSITIONS=has_positions, BLOCK_BUCKETS=padded(num_buckets),
            **call.arguments(chosen),
        )  # fmt: skip
    if num_buckets == 1:
        positions = by_distance.sum(0)
        return positions, positions.sum().reshape(1)
    times = by_bucket.sum(0)
    return by_distance.sum(0) if has_positions else times.sum().reshape(1), times


def _scratch(call: Call, wanted: bool) -> Tensor:
    size = call.q.shape[:2] if wanted else (0,)
    return torch.empty(size, dtype=torch.float32, device=call.q.device)
