"""The backward kernel of the bias: each tile of rows sums into buffers of its own."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.interval_attention.triton.tiles import (
    Bias,
    Block,
    Matrix,
    Tiling,
    add_bias,
    block_of,
    buckets_of_pairs,
    column_runs,
    load_numbers,
    load_queries,
    load_tile,
    nth_index,
    score_gradient,
    sequence_at,
    visible_pairs,
)

_FAR = tl.constexpr(2**30)


@triton.jit
def add_distances(
    partial: tl.tensor,
    ds: tl.tensor,
    visible: tl.tensor,
    position: tl.tensor,
    column: tl.tensor,
    NUM_POSITIONS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
) -> tl.tensor:
    """partial[position - column] += ds, rows shifted into place first; the sums of the table's ends."""
    last: tl.constexpr = NUM_POSITIONS - 1
    start, offset = tl.min(column, 0), tl.arange(0, BLOCK_COLUMNS)
    distance = position[:, None] - column[None, :]
    least = tl.min(tl.min(tl.where(visible, distance, _FAR), 1), 0)
    most = tl.max(tl.max(tl.where(visible, distance, -1), 1), 0)
    first = tl.maximum(least, 1) // BLOCK_COLUMNS
    end = tl.cdiv(tl.minimum(most, last - 1) + 1, BLOCK_COLUMNS)
    # Blocks begin at multiples of their size: a cell is always the same thread's.
    for block in range(first, end):
        cell = block * BLOCK_COLUMNS + offset
        source = position[:, None] - start - cell[None, :]
        there = (source >= 0) & (source < BLOCK_COLUMNS)
        shifted = tl.gather(ds, tl.minimum(tl.maximum(source, 0), BLOCK_COLUMNS - 1), 1)
        share = tl.sum(tl.where(there, shifted, 0.0), 0)
        between = (cell > 0) & (cell < last)
        before = tl.load(partial + cell, mask=between, other=0.0)
        tl.store(partial + cell, before + share, mask=between)
        tl.debug_barrier()
    near = tl.sum(tl.sum(tl.where(distance <= 0, ds, 0.0), 1), 0)
    far = tl.sum(tl.sum(tl.where(distance >= last, ds, 0.0), 1), 0)
    return near, far


@triton.jit
def sums_by_bucket(
    ds: tl.tensor, bucket: tl.tensor, visible: tl.tensor, BLOCK_BUCKETS: tl.constexpr
) -> tl.tensor:
    """The sum of ds over the pairs of each bucket, one bucket after the other."""
    each = tl.arange(0, BLOCK_BUCKETS)
    sums = tl.zeros([BLOCK_BUCKETS], tl.float32)
    least = tl.min(tl.min(tl.where(visible, bucket, BLOCK_BUCKETS), 1), 0)
    most = tl.max(tl.max(tl.where(visible, bucket, -1), 1), 0)
    for which in range(least, most + 1):
        share = tl.sum(tl.sum(tl.where(bucket == which, ds, 0.0), 1), 0)
        sums += tl.where(each == which, share, 0.0)
    return sums


@triton.jit(do_not_specialize=["num_heads"])
def bias_gradient_kernel(
    q: Matrix,
    k: Matrix,
    v: Matrix,
    out_gradient: Matrix,
    log_sums: Matrix,
    deltas: Matrix,
    distance_sums: tl.tensor,
    bucket_sums: tl.tensor,
    row_tiles: Tiling,
    kv_offsets: tl.tensor,
    intervals: tl.tensor,
    bias: Bias,
    num_heads: tl.tensor,
    scale: tl.tensor,
    divisor: tl.tensor,
    SOFTMAX: tl.constexpr,
    NUM_POSITIONS: tl.constexpr,
    NUM_BUCKETS: tl.constexpr,
    BLOCK_BUCKETS: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_VALUE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """Sum a tile of rows' score gradients over the heads, then by distance and by bucket."""
    tile = tl.program_id(0).to(tl.int64)
    sequence, rows = block_of(row_tiles, BLOCK_ROWS)
    column_start, num_columns = sequence_at(kv_offsets, sequence)
    queries = load_queries(intervals, bias, rows, NUM_POSITIONS, NUM_BUCKETS)
    runs = column_runs(queries, BLOCK_COLUMNS)
    distance_sums += tile * NUM_POSITIONS
    by_bucket = tl.zeros([BLOCK_BUCKETS], tl.float32)
    near, far = tl.full([], 0.0, tl.float32), tl.full([], 0.0, tl.float32)
    for step in range(runs.num_first + runs.num_second):
        columns = Block(column_start, num_columns, nth_index(runs, step, BLOCK_COLUMNS))
        visible = visible_pairs(queries, columns.index, 0)
        zero = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
        bias_tile = add_bias(zero, bias, queries, columns, 0, NUM_POSITIONS, NUM_BUCKETS)
        summed = zero
        for each in range(num_heads):
            head = tl.full([], 0, tl.int64) + each
            q_tile = load_tile(q, head, rows, WIDTH, BLOCK_WIDTH)
            k_tile = load_tile(k, head, columns, WIDTH, BLOCK_WIDTH)
            v_tile = load_tile(v, head, columns, VALUE_WIDTH, BLOCK_VALUE)
            do_tile = load_tile(out_gradient, head, rows, VALUE_WIDTH, BLOCK_VALUE)
            log_sum = tl.zeros([BLOCK_ROWS], tl.float32)
            delta = tl.zeros([BLOCK_ROWS], tl.float32)
            if SOFTMAX:
                log_sum = load_numbers(log_sums, head, rows)
                delta = load_numbers(deltas, head, rows)
            s = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * scale + bias_tile
            dp = tl.dot(do_tile, tl.trans(v_tile), input_precision=PRECISION)
            summed += score_gradient(s, dp, visible, log_sum[:, None], delta[:, None], SOFTMAX)[1]
        summed = summed / divisor
        if NUM_POSITIONS > 1:
            ends = add_distances(
                distance_sums, summed, visible, queries.position, columns.index,
                NUM_POSITIONS, BLOCK_COLUMNS,
            )  # fmt: skip
            near, far = near + ends[0], far + ends[1]
        elif NUM_POSITIONS == 1:
            near += tl.sum(tl.sum(summed, 1), 0)
        if NUM_BUCKETS > 0:
            bucket = buckets_of_pairs(bias, queries, columns, 0, NUM_BUCKETS)
            by_bucket += sums_by_bucket(summed, bucket, visible, BLOCK_BUCKETS)
    if NUM_POSITIONS > 0:
        tl.store(distance_sums, near)
    if NUM_POSITIONS > 1:
        tl.store(distance_sums + NUM_POSITIONS - 1, far)
    if NUM_BUCKETS > 0:
        which = tl.arange(0, BLOCK_BUCKETS)
        tl.store(bucket_sums + tile * NUM_BUCKETS + which, by_bucket, mask=which < NUM_BUCKETS)
