"""The kernels of grouped linear: a tile of rows lies in one group, so it multiplies one weight."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def product_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    order: tl.tensor,
    offsets: tl.tensor,
    tile_groups: tl.tensor,
    first_tiles: tl.tensor,
    num_groups: tl.tensor,
    x_row: tl.tensor,
    weight_group: tl.tensor,
    weight_in: tl.tensor,
    weight_out: tl.tensor,
    BIASED: tl.constexpr,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
) -> None:
    """out_t = x_t weight[group_t] + bias[group_t] for a tile of rows and a block of columns."""
    index = tl.program_id(0)
    group = tl.load(tile_groups + index).to(tl.int64)
    if group >= num_groups:
        return
    tile = (index - tl.load(first_tiles + group)).to(tl.int64)
    place = tl.load(offsets + group) + tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    exists = place < tl.load(offsets + group + 1)
    row = tl.load(order + place, mask=exists, other=0)
    column = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    weight += group * weight_group
    total = tl.zeros([BLOCK_ROWS, BLOCK_OUT], tl.float32)
    for start in range(0, IN, BLOCK_IN):
        inner = start + tl.arange(0, BLOCK_IN)
        x_at = row[:, None] * x_row + inner[None, :]
        x_tile = tl.load(x + x_at, mask=exists[:, None] & (inner < IN)[None, :], other=0.0)
        weight_at = inner[:, None].to(tl.int64) * weight_in + column[None, :] * weight_out
        inside = (inner < IN)[:, None] & (column < OUT)[None, :]
        weight_tile = tl.load(weight + weight_at, mask=inside, other=0.0)
        total = tl.dot(x_tile, weight_tile, total, input_precision="ieee")
    if BIASED:
        b = tl.load(bias + group * OUT + column, mask=column < OUT, other=0.0)
        total += b.to(tl.float32)[None, :]
    out_at = row[:, None] * OUT + column[None, :]
    there = exists[:, None] & (column < OUT)[None, :]
    tl.store(out + out_at, total.to(out.dtype.element_ty), mask=there)


@triton.jit
def weight_gradient_kernel(
    x: tl.tensor,
    out_gradient: tl.tensor,
    weight_gradient: tl.tensor,
    bias_gradient: tl.tensor,
    order: tl.tensor,
    offsets: tl.tensor,
    x_row: tl.tensor,
    BIASED: tl.constexpr,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
) -> None:
    """Sum x_t^T out_gradient_t over one group's rows, in their order, for a block of the weight."""
    group = tl.program_id(0).to(tl.int64)
    inner = tl.program_id(1) * BLOCK_IN + tl.arange(0, BLOCK_IN)
    column = tl.program_id(2) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    first, last = tl.load(offsets + group), tl.load(offsets + group + 1)
    total = tl.zeros([BLOCK_IN, BLOCK_OUT], tl.float32)
    bias_total = tl.zeros([BLOCK_OUT], tl.float32)
    for start in range(first, last, BLOCK_ROWS):
        place = start + tl.arange(0, BLOCK_ROWS)
        exists = place < last
        row = tl.load(order + place, mask=exists, other=0)
        x_at = row[:, None] * x_row + inner[None, :]
        x_tile = tl.load(x + x_at, mask=exists[:, None] & (inner < IN)[None, :], other=0.0)
        given_at = row[:, None] * OUT + column[None, :]
        there = exists[:, None] & (column < OUT)[None, :]
        given = tl.load(out_gradient + given_at, mask=there, other=0.0)
        total = tl.dot(tl.trans(x_tile), given, total, input_precision="ieee")
        if BIASED:
            bias_total += tl.sum(given.to(tl.float32), 0)
    at = group * IN * OUT + inner[:, None] * OUT + column[None, :]
    inside = (inner < IN)[:, None] & (column < OUT)[None, :]
    tl.store(weight_gradient + at, total.to(weight_gradient.dtype.element_ty), mask=inside)
    if BIASED:
        # One of the programs that share these columns writes.
        wanted = (column < OUT) & (tl.program_id(1) == 0)
        bias_total = bias_total.to(bias_gradient.dtype.element_ty)
        tl.store(bias_gradient + group * OUT + column, bias_total, mask=wanted)
