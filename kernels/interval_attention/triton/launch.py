"""How the kernels are launched: tiles of ragged sequences, arguments, buffers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from kernels.interval_attention.bias import Bias, edges_ms
from kernels.interval_attention.triton import tiles
from kernels.interval_attention.triton.backward import (
    key_value_gradient_kernel,
    query_gradient_kernel,
    row_spans_kernel,
)
from kernels.interval_attention.triton.bias_gradient import bias_gradient_kernel
from kernels.interval_attention.triton.configurations import (
    Configuration,
    Kernel,
    arch_of,
    configuration,
    constants_of,
    padded,
)
from kernels.interval_attention.triton.forward import forward_kernel
from kernels.jagged import offsets_of


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Sequences cut into blocks of rows, each beginning at its sequence's start.

    Shapes: `sequences` int32[num]; `first` int32[B+1], a sequence's first. `num` is bound by lengths
    alone known on the host, so nothing waits for the device; tiles left over lie past the end of the
    last sequence.
    """

    num: int
    sequences: Tensor
    first: Tensor
    offsets: Tensor

    def tiling(self) -> tiles.Tiling:
        """What a kernel sees of it."""
        return tiles.Tiling(self.offsets, self.sequences, self.first)


def tiles_of(offsets: Tensor, num_rows: int, block: int) -> Tiles:
    """Cut `num_rows` rows in sequences at `offsets` int64[B+1]."""
    num_sequences = len(offsets) - 1
    num = (num_rows + num_sequences * (block - 1)) // block
    first = offsets_of((offsets.diff() + block - 1) // block)
    tile = torch.arange(num, device=offsets.device)
    sequences = torch.searchsorted(first, tile, right=True) - 1
    return Tiles(
        num=num,
        sequences=sequences.clamp(max=num_sequences - 1).int(),
        first=first.int(),
        offsets=offsets,
    )


@dataclass(frozen=True, kw_only=True)
class Call:
    """The arguments of one attention that every kernel of it takes.

    `precision` is how float32 is multiplied: "ieee" or "tf32".
    """

    q: Tensor
    k: Tensor
    v: Tensor
    q_offsets: Tensor
    kv_offsets: Tensor
    intervals: Tensor
    softmax: bool
    scale: float
    divisor: float
    bias: Bias
    precision: str

    @property
    def num_positions(self) -> int:
        """Entries of the bias by distance; 0 without."""
        return 0 if self.bias.position is None else len(self.bias.position.table)

    @property
    def num_buckets(self) -> int:
        """Entries of the bias by time; 0 without."""
        return 0 if self.bias.time is None else len(self.bias.time.table)

    def configuration(self, kernel: Kernel) -> Configuration:
        """The block sizes this call takes."""
        width = max(self.q.shape[2], self.v.shape[2])
        return configuration(kernel, width, self.q.dtype, arch_of(self.q))

    def arguments(self, chosen: Configuration) -> dict[str, Any]:
        """What all kernels name alike."""
        return {
            "q": _matrix(self.q), "k": _matrix(self.k), "v": _matrix(self.v),
            "intervals": self.intervals, "bias": self._bias(),
            "scale": self.scale, "divisor": self.divisor,
            "num_warps": chosen.num_warps, "num_stages": chosen.num_stages,
            "maxnreg": chosen.max_registers,
            **constants_of(
                chosen, softmax=self.softmax, num_positions=self.num_positions,
                num_buckets=self.num_buckets, width=self.q.shape[2],
                value_width=self.v.shape[2], precision=self.precision,
            ),
        }  # fmt: skip

    def _bias(self) -> tiles.Bias:
        # An absent table's pointers point to what is never read.
        position, time, unread = self.bias.position, self.bias.time, self.q_offsets
        return tiles.Bias(
            by_distance=self.q if position is None else position.table,
            by_bucket=self.q if time is None else time.table,
            edges=unread if time is None else edges_on(self.num_buckets, self.q.device),
            q_positions=unread if position is None else position.q_positions,
            q_times=unread if time is None else time.q_times_ms,
            kv_times=unread if time is None else time.kv_times_ms,
        )


@cache
def edges_on(num_buckets: int, device: torch.device) -> Tensor:
    """The boundaries of the time buckets, int64[NB-1], on a device."""
    return edges_ms(num_buckets).to(device)


def forward(call: Call) -> tuple[Tensor, Tensor]:
    """The output [Tq,H,V], and log_sums float32[Tq,H] for softmax (else [0,H])."""
    num_rows, num_heads = call.q.shape[:2]
    out = call.q.new_empty(num_rows, num_heads, call.v.shape[2])
    log_sums = _number_per_row(call)
    chosen = call.configuration("forward")
    row_tiles = tiles_of(call.q_offsets, num_rows, chosen.block_rows)
    if row_tiles.num and num_heads:
        forward_kernel[row_tiles.num, num_heads](
            out=_matrix(out), log_sums=_matrix(log_sums), row_tiles=row_tiles.tiling(),
            kv_offsets=call.kv_offsets, **call.arguments(chosen),
        )  # fmt: skip
    return out, log_sums


def query_gradient(
    call: Call, out: Tensor, log_sums: Tensor, out_gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradient of q, and deltas float32[Tq,H] for softmax: each row's <out, its gradient>."""
    deltas = _number_per_row(call)
    num_rows, num_heads, width = call.q.shape
    gradient = call.q.new_empty(num_rows, num_heads, width)
    chosen = call.configuration("query_gradient")
    row_tiles = tiles_of(call.q_offsets, num_rows, chosen.block_rows)
    if row_tiles.num and num_heads:
        query_gradient_kernel[row_tiles.num, num_heads](
            out=_matrix(out), out_gradient=_matrix(out_gradient), log_sums=_matrix(log_sums),
            deltas=_matrix(deltas), q_gradient=_matrix(gradient), row_tiles=row_tiles.tiling(),
            kv_offsets=call.kv_offsets, **call.arguments(chosen),
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
    column_tiles = tiles_of(call.kv_offsets, num_columns, chosen.block_columns)
    spans = row_tiles.first.new_empty(row_tiles.num, 4)
    if row_tiles.num:
        row_spans_kernel[(row_tiles.num,)](
            spans, row_tiles.tiling(), call.intervals, BLOCK_ROWS=chosen.block_rows
        )
    if column_tiles.num and num_heads:
        key_value_gradient_kernel[column_tiles.num, num_heads](
            out_gradient=_matrix(out_gradient), log_sums=_matrix(log_sums),
            deltas=_matrix(deltas), k_gradient=_matrix(k_gradient),
            v_gradient=_matrix(v_gradient), spans=spans, row_tiles=row_tiles.tiling(),
            column_tiles=column_tiles.tiling(), **call.arguments(chosen),
        )  # fmt: skip
    return k_gradient, v_gradient


def bias_gradient(
    call: Call, log_sums: Tensor, deltas: Tensor, out_gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """The score gradients summed by distance, float32[P], and by time bucket, float32[NB]."""
    num_rows, num_heads = call.q.shape[:2]
    chosen = call.configuration("bias_gradient")
    row_tiles = tiles_of(call.q_offsets, num_rows, chosen.block_rows)
    distance_sums = torch.zeros(row_tiles.num, call.num_positions, device=call.q.device)
    bucket_sums = torch.zeros(row_tiles.num, call.num_buckets, device=call.q.device)
    if row_tiles.num:
        bias_gradient_kernel[(row_tiles.num,)](
            out_gradient=_matrix(out_gradient), log_sums=_matrix(log_sums),
            deltas=_matrix(deltas), distance_sums=distance_sums, bucket_sums=bucket_sums,
            row_tiles=row_tiles.tiling(), kv_offsets=call.kv_offsets, num_heads=num_heads,
            BLOCK_BUCKETS=padded(call.num_buckets), **call.arguments(chosen),
        )  # fmt: skip
    return distance_sums.sum(0), bucket_sums.sum(0)


def _matrix(x: Tensor) -> tiles.Matrix:
    return tiles.Matrix(x, x.stride(0), x.stride(1))


def _number_per_row(call: Call) -> Tensor:
    num_rows = len(call.q) if call.softmax else 0
    return torch.empty(num_rows, call.q.shape[1], dtype=torch.float32, device=call.q.device)
