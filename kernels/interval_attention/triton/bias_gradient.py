"""The backward kernel of the bias: each tile of rows sums into buffers of its own."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.interval_attention.triton.tiles import (
    bias_of,
    bucket_of,
    load_intervals,
    load_rows,
    score_gradient,
    seen,
    span,
    two_runs,
)


@triton.jit
def add_distances(
    partial: tl.tensor,
    ds: tl.tensor,
    position: tl.tensor,
    start: tl.tensor,
    num_positions: tl.tensor,
    BLOCK_COLUMNS: tl.constexpr,
) -> tl.tensor:
    """partial[position - column] += ds, rows shifted into place first; the sums of the table's ends."""
    column = tl.arange(0, BLOCK_COLUMNS)
    distance = position[:, None] - start - column[None, :]
    last = num_positions - 1
    lowest = tl.maximum(tl.min(tl.min(distance, 1), 0), 1) // BLOCK_COLUMNS
    highest = tl.maximum(tl.minimum(tl.max(tl.max(distance, 1), 0), last - 1), -1)
    # Blocks begin at multiples of their size: a cell is always the same thread's.
    for block in range(lowest, (highest + BLOCK_COLUMNS) // BLOCK_COLUMNS):
        cell = block * BLOCK_COLUMNS + column
        source = position[:, None] - start - cell[None, :]
        there = (source >= 0) & (source < BLOCK_COLUMNS)
        shifted = tl.gather(ds, tl.minimum(tl.maximum(source, 0), BLOCK_COLUMNS - 1), 1)
        share = tl.sum(tl.where(there, shifted, 0.0), 0)
        between = (cell > 0) & (cell < last)
        before = tl.load(partial + cell, mask=between, other=0.0)
        tl.store(partial + cell, before + share, mask=between)
        tl.debug_barrier()
    near = tl.where((distance <= 0) | (last == 0), ds, 0.0)
    far = tl.where((distance >= last) & (last > 0), ds, 0.0)
    return tl.sum(tl.sum(near, 1), 0), tl.sum(tl.sum(far, 1), 0)


@triton.jit(do_not_specialize=["num_heads", "num_positions"])
def bias_gradient_kernel(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    out_gradient: tl.tensor,
    log_sums: tl.tensor,
    deltas: tl.tensor,
    position_partials: tl.tensor,
    time_partials: tl.tensor,
    q_offsets: tl.tensor,
    kv_offsets: tl.tensor,
    intervals: tl.tensor,
    tile_sequences: tl.tensor,
    first_tiles: tl.tensor,
    table: tl.tensor,
    edges: tl.tensor,
    q_positions: tl.tensor,
    q_times: tl.tensor,
    kv_times: tl.tensor,
    num_sequences: tl.tensor,
    num_positions: tl.tensor,
    num_heads: tl.tensor,
    scale: tl.tensor,
    divisor: tl.tensor,
    q_row: tl.tensor,
    q_head: tl.tensor,
    k_row: tl.tensor,
    k_head: tl.tensor,
    v_row: tl.tensor,
    v_head: tl.tensor,
    SOFTMAX: tl.constexpr,
    HAS_POSITIONS: tl.constexpr,
    NUM_BUCKETS: tl.constexpr,
    BLOCK_BUCKETS: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_VALUE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
) -> None:
    """Add a tile of rows' score gradients, summed over the heads, by distance and by bucket."""
    tile = tl.program_id(0).to(tl.int64)
    sequence = tl.load(tile_sequences + tile)
    if sequence >= num_sequences:
        return
    row_start = tl.load(q_offsets + sequence)
    num_rows = (tl.load(q_offsets + sequence + 1) - row_start).to(tl.int32)
    column_start = tl.load(kv_offsets + sequence)
    num_columns = (tl.load(kv_offsets + sequence + 1) - column_start).to(tl.int32)
    first_tile = tl.load(first_tiles + sequence)
    rows = (tile - first_tile).to(tl.int32) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    position_partials += tile * num_positions
    out_row = num_heads * VALUE_WIDTH

    a0, b0, a1, b1 = load_intervals(intervals + row_start * 4, rows, num_rows)
    lo0, hi0 = span(a0, b0)
    lo1, hi1 = span(a1, b1)
    first, num_first, second, num_second = two_runs(lo0, hi0, lo1, hi1, BLOCK_COLUMNS)
    # Rows past the end repeat the last one, so that they add no distances to look at.
    position = tl.load(q_positions + row_start + tl.minimum(rows, num_rows - 1)).to(tl.int32)
    q_time = tl.load(q_times + row_start + rows, mask=rows < num_rows, other=0)
    bucket_column = tl.arange(0, BLOCK_BUCKETS)
    by_bucket = tl.zeros([BLOCK_BUCKETS], tl.float32)
    near, far = tl.full([], 0.0, tl.float32), tl.full([], 0.0, tl.float32)
    for step in range(num_first + num_second):
        column_tile = tl.where(step < num_first, first + step, second + step - num_first)
        start = column_tile * BLOCK_COLUMNS
        columns = start + tl.arange(0, BLOCK_COLUMNS)
        column = columns[None, :]
        times_at = kv_times + column_start + columns
        kv_time = tl.load(times_at, mask=columns < num_columns, other=0)
        visible = seen(column, a0[:, None], b0[:, None], a1[:, None], b1[:, None])
        bias = bias_of(
            table, edges, position[:, None], q_time[:, None], column, kv_time[None, :],
            num_positions, NUM_BUCKETS,
        )  # fmt: skip
        summed = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
        for each in range(num_heads):
            head = tl.full([], 0, tl.int64) + each
            q_base = q + row_start * q_row + head * q_head
            k_base = k + column_start * k_row + head * k_head
            v_base = v + column_start * v_row + head * v_head
            do_base = out_gradient + (row_start * num_heads + head) * VALUE_WIDTH
            q_tile = load_rows(q_base, rows, num_rows, q_row, WIDTH, BLOCK_WIDTH)
            k_tile = load_rows(k_base, columns, num_columns, k_row, WIDTH, BLOCK_WIDTH)
            v_tile = load_rows(v_base, columns, num_columns, v_row, VALUE_WIDTH, BLOCK_VALUE)
            do_tile = load_rows(do_base, rows, num_rows, out_row, VALUE_WIDTH, BLOCK_VALUE)
            log_sum = tl.zeros([BLOCK_ROWS], tl.float32)
            delta = tl.zeros([BLOCK_ROWS], tl.float32)
            if SOFTMAX:
                at = (row_start + rows) * num_heads + head
                log_sum = tl.load(log_sums + at, mask=rows < num_rows, other=0.0)
                delta = tl.load(deltas + at, mask=rows < num_rows, other=0.0)
            s = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale + bias
            dp = tl.dot(do_tile, tl.trans(v_tile), input_precision="ieee")
            summed += score_gradient(s, dp, visible, log_sum[:, None], delta[:, None], SOFTMAX)[1]
        summed = summed / divisor
        if HAS_POSITIONS:
            at_ends = add_distances(
                position_partials, summed, position, start, num_positions, BLOCK_COLUMNS
            )
            near, far = near + at_ends[0], far + at_ends[1]
        if NUM_BUCKETS > 1:
            bucket = bucket_of(q_time[:, None] - kv_time[None, :], edges, NUM_BUCKETS)
            lowest = tl.min(tl.min(tl.where(visible, bucket, NUM_BUCKETS), 1), 0)
            highest = tl.max(tl.max(tl.where(visible, bucket, -1), 1), 0)
            for which in range(lowest, highest + 1):
                share = tl.sum(tl.sum(tl.where(bucket == which, summed, 0.0), 1), 0)
                by_bucket += tl.where(bucket_column == which, share, 0.0)
    if HAS_POSITIONS:
        last = num_positions - 1
        tl.store(position_partials, near)
        tl.store(position_partials + last, far, mask=last > 0)
    if NUM_BUCKETS > 1:
        bucket_at = time_partials + tile * NUM_BUCKETS + bucket_column
        tl.store(bucket_at, by_bucket, mask=bucket_column < NUM_BUCKETS)
