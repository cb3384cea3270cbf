"""The kernels of grouped norm: one program per tile of rows, which lies in one group."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def places_of(
    order: tl.tensor,
    offsets: tl.tensor,
    group: tl.tensor,
    tile: tl.tensor,
    step: tl.tensor,
    TILE_ROWS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    SORTED: tl.constexpr,
) -> tl.tensor:
    """The rows of a tile's step, and which of them exist."""
    place = tl.load(offsets + group) + tile * TILE_ROWS + step * BLOCK_ROWS
    place = place + tl.arange(0, BLOCK_ROWS)
    exists = place < tl.load(offsets + group + 1)
    if SORTED:
        return tl.load(order + place, mask=exists, other=0), exists
    else:
        return place, exists


@triton.jit
def forward_kernel(
    x: tl.tensor,
    gate: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    means: tl.tensor,
    rstds: tl.tensor,
    order: tl.tensor,
    offsets: tl.tensor,
    tile_groups: tl.tensor,
    first_tiles: tl.tensor,
    num_groups: tl.tensor,
    gate_row: tl.tensor,
    gate_head: tl.tensor,
    epsilon: tl.tensor,
    GATED: tl.constexpr,
    BIASED: tl.constexpr,
    SORTED: tl.constexpr,
    RMS: tl.constexpr,
    HEAD_WIDTH: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    TILE_ROWS: tl.constexpr,
) -> None:
    """Write `out` and each row's mean and reciprocal deviation."""
    tile = tl.program_id(0)
    group = tl.load(tile_groups + tile).to(tl.int64)
    if group >= num_groups:
        return
    tile = (tile - tl.load(first_tiles + group)).to(tl.int64)
    column = tl.arange(0, BLOCK_WIDTH)
    inside = column < WIDTH
    w = tl.load(weight + group * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    for step in range(TILE_ROWS // BLOCK_ROWS):
        row, exists = places_of(order, offsets, group, tile, step, TILE_ROWS, BLOCK_ROWS, SORTED)
        there = exists[:, None] & inside[None, :]
        at = row[:, None] * WIDTH + column[None, :]
        values = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
        mean = tl.zeros([BLOCK_ROWS], tl.float32)
        if not RMS:
            mean = tl.sum(values, 1) / WIDTH
            values = tl.where(there, values - mean[:, None], 0.0)
        rstd = 1.0 / tl.sqrt(tl.sum(values * values, 1) / WIDTH + epsilon)
        y = values * rstd[:, None] * w[None, :]
        if BIASED:
            b = tl.load(bias + group * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
            y += b[None, :]
        if GATED:
            gate_column = column // HEAD_WIDTH * gate_head + column % HEAD_WIDTH
            gate_at = row[:, None] * gate_row + gate_column[None, :]
            y *= tl.load(gate + gate_at, mask=there, other=0.0).to(tl.float32)
        tl.store(out + at, y.to(out.dtype.element_ty), mask=there)
        tl.store(means + row, mean, mask=exists)
        tl.store(rstds + row, rstd, mask=exists)


@triton.jit
def backward_kernel(
    x: tl.tensor,
    gate: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out_gradient: tl.tensor,
    means: tl.tensor,
    rstds: tl.tensor,
    x_gradient: tl.tensor,
    gate_gradient: tl.tensor,
    partials: tl.tensor,
    order: tl.tensor,
    offsets: tl.tensor,
    tile_groups: tl.tensor,
    first_tiles: tl.tensor,
    num_groups: tl.tensor,
    gate_row: tl.tensor,
    gate_head: tl.tensor,
    GATED: tl.constexpr,
    BIASED: tl.constexpr,
    SORTED: tl.constexpr,
    RMS: tl.constexpr,
    HEAD_WIDTH: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    TILE_ROWS: tl.constexpr,
) -> None:
    """Write the gradients of x and of the gate, and the tile's share of the weight's and the bias's."""
    index = tl.program_id(0)
    group = tl.load(tile_groups + index).to(tl.int64)
    if group >= num_groups:
        return
    tile = (index - tl.load(first_tiles + group)).to(tl.int64)
    column = tl.arange(0, BLOCK_WIDTH)
    inside = column < WIDTH
    w = tl.load(weight + group * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    weight_sum = tl.zeros([BLOCK_WIDTH], tl.float32)
    bias_sum = tl.zeros([BLOCK_WIDTH], tl.float32)
    for step in range(TILE_ROWS // BLOCK_ROWS):
        row, exists = places_of(order, offsets, group, tile, step, TILE_ROWS, BLOCK_ROWS, SORTED)
        there = exists[:, None] & inside[None, :]
        at = row[:, None] * WIDTH + column[None, :]
        mean = tl.load(means + row, mask=exists, other=0.0)[:, None]
        rstd = tl.load(rstds + row, mask=exists, other=0.0)[:, None]
        normal = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
        normal = tl.where(there, (normal - mean) * rstd, 0.0)
        dy = tl.load(out_gradient + at, mask=there, other=0.0).to(tl.float32)
        if GATED:
            gate_column = column // HEAD_WIDTH * gate_head + column % HEAD_WIDTH
            gate_at = row[:, None] * gate_row + gate_column[None, :]
            y = normal * w[None, :]
            if BIASED:
                b = tl.load(bias + group * WIDTH + column, mask=inside, other=0.0)
                y += b.to(tl.float32)[None, :]
            of_gate = (dy * y).to(gate_gradient.dtype.element_ty)
            tl.store(gate_gradient + at, of_gate, mask=there)
            dy *= tl.load(gate + gate_at, mask=there, other=0.0).to(tl.float32)
        weight_sum += tl.sum(dy * normal, 0)
        bias_sum += tl.sum(dy, 0)
        unit = dy * w[None, :]
        found = unit - normal * (tl.sum(unit * normal, 1) / WIDTH)[:, None]
        if not RMS:
            found -= (tl.sum(unit, 1) / WIDTH)[:, None]
        found = (found * rstd).to(x_gradient.dtype.element_ty)
        tl.store(x_gradient + at, found, mask=there)
    partials += index.to(tl.int64) * 2 * WIDTH + column
    tl.store(partials, weight_sum, mask=inside)
    tl.store(partials + WIDTH, bias_sum, mask=inside)


@triton.jit
def sum_kernel(
    partials: tl.tensor,
    sums: tl.tensor,
    first_tiles: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
) -> None:
    """Add up each group's tiles, in their order: partials [tiles,WIDTH] -> sums [G,WIDTH]."""
    group = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)
    first, last = tl.load(first_tiles + group), tl.load(first_tiles + group + 1)
    total = tl.zeros([BLOCK_WIDTH], tl.float32)
    for start in range(first, last, BLOCK_ROWS):
        tile = (start + tl.arange(0, BLOCK_ROWS)).to(tl.int64)
        there = (tile < last)[:, None] & (column < WIDTH)[None, :]
        at = tile[:, None] * WIDTH + column[None, :]
        total += tl.sum(tl.load(partials + at, mask=there, other=0.0), 0)
    tl.store(sums + group * WIDTH + column, total, mask=column < WIDTH)
