"""The backward kernels of q and of k, v: each gradient has one writer, so nothing is added atomically."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.interval_attention.triton.tiles import (
    bias_of,
    load_intervals,
    load_rows,
    score_gradient,
    seen,
    span,
    store_rows,
    two_runs,
)


@triton.jit
def row_spans_kernel(
    q_offsets: tl.tensor,
    intervals: tl.tensor,
    tile_sequences: tl.tensor,
    first_tiles: tl.tensor,
    spans: tl.tensor,
    num_sequences: tl.tensor,
    BLOCK_ROWS: tl.constexpr,
) -> None:
    """Write what columns a tile of rows sees: [lo0,hi0) and [lo1,hi1), int32[tiles,4]."""
    tile = tl.program_id(0)
    sequence = tl.load(tile_sequences + tile)
    if sequence >= num_sequences:
        return
    row_start = tl.load(q_offsets + sequence)
    num_rows = (tl.load(q_offsets + sequence + 1) - row_start).to(tl.int32)
    rows = (tile - tl.load(first_tiles + sequence)) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    a0, b0, a1, b1 = load_intervals(intervals + row_start * 4, rows, num_rows)
    lo0, hi0 = span(a0, b0)
    lo1, hi1 = span(a1, b1)
    tl.store(spans + tile * 4, lo0)
    tl.store(spans + tile * 4 + 1, hi0)
    tl.store(spans + tile * 4 + 2, lo1)
    tl.store(spans + tile * 4 + 3, hi1)


@triton.jit
def row_tiles_of(
    spans: tl.tensor, num_tiles: tl.tensor, start: tl.tensor, end: tl.tensor, CHUNK: tl.constexpr
) -> tl.tensor:
    """The tiles of rows that may see a column of [start, end), as two runs (see `two_runs`)."""
    lo0, hi0 = tl.full([], 2**30, tl.int32), tl.full([], 0, tl.int32)
    lo1, hi1 = tl.full([], 2**30, tl.int32), tl.full([], 0, tl.int32)
    for chunk in range(0, num_tiles, CHUNK):
        tiles = chunk + tl.arange(0, CHUNK)
        inside = tiles < num_tiles
        sees0 = tl.load(spans + tiles * 4, mask=inside, other=2**30) < end
        sees0 = sees0 & (tl.load(spans + tiles * 4 + 1, mask=inside, other=0) > start)
        sees1 = tl.load(spans + tiles * 4 + 2, mask=inside, other=2**30) < end
        sees1 = sees1 & (tl.load(spans + tiles * 4 + 3, mask=inside, other=0) > start)
        start0, end0 = span(tiles, tiles + sees0.to(tl.int32))
        start1, end1 = span(tiles, tiles + sees1.to(tl.int32))
        lo0, hi0 = tl.minimum(lo0, start0), tl.maximum(hi0, end0)
        lo1, hi1 = tl.minimum(lo1, start1), tl.maximum(hi1, end1)
    return two_runs(lo0, hi0, lo1, hi1, 1)


@triton.jit
def query_gradient_kernel(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    out: tl.tensor,
    out_gradient: tl.tensor,
    log_sums: tl.tensor,
    deltas: tl.tensor,
    q_gradient: tl.tensor,
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
    scale: tl.tensor,
    divisor: tl.tensor,
    q_row: tl.tensor,
    q_head: tl.tensor,
    k_row: tl.tensor,
    k_head: tl.tensor,
    v_row: tl.tensor,
    v_head: tl.tensor,
    SOFTMAX: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    NUM_BUCKETS: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_VALUE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
) -> None:
    """Write the gradient of q, and for softmax each row's <out, its gradient>."""
    tile, head, num_heads = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.num_programs(1)
    sequence = tl.load(tile_sequences + tile)
    if sequence >= num_sequences:
        return
    row_start = tl.load(q_offsets + sequence)
    num_rows = (tl.load(q_offsets + sequence + 1) - row_start).to(tl.int32)
    column_start = tl.load(kv_offsets + sequence)
    num_columns = (tl.load(kv_offsets + sequence + 1) - column_start).to(tl.int32)
    rows = (tile - tl.load(first_tiles + sequence)) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    out_row, out_base = num_heads.to(tl.int64) * VALUE_WIDTH, row_start * num_heads + head

    k += column_start * k_row + head * k_head
    v += column_start * v_row + head * v_head
    q_base = q + row_start * q_row + head * q_head
    q_tile = load_rows(q_base, rows, num_rows, q_row, WIDTH, BLOCK_WIDTH)
    do_base = out_gradient + out_base * VALUE_WIDTH
    do_tile = load_rows(do_base, rows, num_rows, out_row, VALUE_WIDTH, BLOCK_VALUE)
    a0, b0, a1, b1 = load_intervals(intervals + row_start * 4, rows, num_rows)
    lo0, hi0 = span(a0, b0)
    lo1, hi1 = span(a1, b1)
    first, num_first, second, num_second = two_runs(lo0, hi0, lo1, hi1, BLOCK_COLUMNS)
    log_sum = tl.zeros([BLOCK_ROWS], tl.float32)
    delta = tl.zeros([BLOCK_ROWS], tl.float32)
    if SOFTMAX:
        o_base = out + out_base * VALUE_WIDTH
        o_tile = load_rows(o_base, rows, num_rows, out_row, VALUE_WIDTH, BLOCK_VALUE)
        delta = tl.sum(o_tile.to(tl.float32) * do_tile.to(tl.float32), 1)
        at = (row_start + rows) * num_heads + head
        tl.store(deltas + at, delta, mask=rows < num_rows)
        log_sum = tl.load(log_sums + at, mask=rows < num_rows, other=0.0)
    if HAS_BIAS:
        position = tl.load(q_positions + row_start + rows, mask=rows < num_rows, other=0)
        position = position.to(tl.int32)
        q_time = tl.load(q_times + row_start + rows, mask=rows < num_rows, other=0)

    total = tl.zeros([BLOCK_ROWS, BLOCK_WIDTH], tl.float32)
    for step in range(num_first + num_second):
        column_tile = tl.where(step < num_first, first + step, second + step - num_first)
        columns = column_tile * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
        k_tile = load_rows(k, columns, num_columns, k_row, WIDTH, BLOCK_WIDTH)
        v_tile = load_rows(v, columns, num_columns, v_row, VALUE_WIDTH, BLOCK_VALUE)
        s = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale
        column = columns[None, :]
        if HAS_BIAS:
            times_at = kv_times + column_start + columns
            kv_time = tl.load(times_at, mask=columns < num_columns, other=0)
            s += bias_of(
                table, edges, position[:, None], q_time[:, None], column, kv_time[None, :],
                num_positions, NUM_BUCKETS,
            )  # fmt: skip
        visible = seen(column, a0[:, None], b0[:, None], a1[:, None], b1[:, None])
        dp = tl.dot(do_tile, tl.trans(v_tile), input_precision="ieee")
        ds = score_gradient(s, dp, visible, log_sum[:, None], delta[:, None], SOFTMAX)[1]
        total = tl.dot(ds.to(k_tile.dtype), k_tile, total, input_precision="ieee")

    q_gradient += (row_start * num_heads + head) * WIDTH
    gradient_row = num_heads.to(tl.int64) * WIDTH
    total = total * (scale / divisor)
    store_rows(q_gradient, rows, num_rows, gradient_row, total, WIDTH, BLOCK_WIDTH)


@triton.jit
def key_value_gradient_kernel(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    out_gradient: tl.tensor,
    log_sums: tl.tensor,
    deltas: tl.tensor,
    k_gradient: tl.tensor,
    v_gradient: tl.tensor,
    q_offsets: tl.tensor,
    kv_offsets: tl.tensor,
    intervals: tl.tensor,
    spans: tl.tensor,
    first_row_tiles: tl.tensor,
    tile_sequences: tl.tensor,
    first_tiles: tl.tensor,
    table: tl.tensor,
    edges: tl.tensor,
    q_positions: tl.tensor,
    q_times: tl.tensor,
    kv_times: tl.tensor,
    num_sequences: tl.tensor,
    num_positions: tl.tensor,
    scale: tl.tensor,
    divisor: tl.tensor,
    q_row: tl.tensor,
    q_head: tl.tensor,
    k_row: tl.tensor,
    k_head: tl.tensor,
    v_row: tl.tensor,
    v_head: tl.tensor,
    SOFTMAX: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    NUM_BUCKETS: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_VALUE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
) -> None:
    """Write the gradients of k and v of a tile of columns; tiles of scores lie [columns, rows]."""
    tile, head, num_heads = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.num_programs(1)
    sequence = tl.load(tile_sequences + tile)
    if sequence >= num_sequences:
        return
    row_start = tl.load(q_offsets + sequence)
    num_rows = (tl.load(q_offsets + sequence + 1) - row_start).to(tl.int32)
    column_start = tl.load(kv_offsets + sequence)
    num_columns = (tl.load(kv_offsets + sequence + 1) - column_start).to(tl.int32)
    start = (tile - tl.load(first_tiles + sequence)) * BLOCK_COLUMNS
    columns = start + tl.arange(0, BLOCK_COLUMNS)
    out_row = num_heads.to(tl.int64) * VALUE_WIDTH

    q += row_start * q_row + head * q_head
    out_gradient += (row_start * num_heads + head) * VALUE_WIDTH
    k_base = k + column_start * k_row + head * k_head
    v_base = v + column_start * v_row + head * v_head
    k_tile = load_rows(k_base, columns, num_columns, k_row, WIDTH, BLOCK_WIDTH)
    v_tile = load_rows(v_base, columns, num_columns, v_row, VALUE_WIDTH, BLOCK_VALUE)
    if HAS_BIAS:
        times_at = kv_times + column_start + columns
        kv_time = tl.load(times_at, mask=columns < num_columns, other=0)
    spans += tl.load(first_row_tiles + sequence).to(tl.int64) * 4
    num_row_tiles = tl.cdiv(num_rows, BLOCK_ROWS)
    first, num_first, second, num_second = row_tiles_of(
        spans, num_row_tiles, start, start + BLOCK_COLUMNS, 128
    )

    k_total = tl.zeros([BLOCK_COLUMNS, BLOCK_WIDTH], tl.float32)
    v_total = tl.zeros([BLOCK_COLUMNS, BLOCK_VALUE], tl.float32)
    for step in range(num_first + num_second):
        row_tile = tl.where(step < num_first, first + step, second + step - num_first)
        rows = row_tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        q_tile = load_rows(q, rows, num_rows, q_row, WIDTH, BLOCK_WIDTH)
        do_tile = load_rows(out_gradient, rows, num_rows, out_row, VALUE_WIDTH, BLOCK_VALUE)
        a0, b0, a1, b1 = load_intervals(intervals + row_start * 4, rows, num_rows)
        s = tl.dot(k_tile, tl.trans(q_tile), input_precision="ieee") * scale
        if HAS_BIAS:
            position = tl.load(q_positions + row_start + rows, mask=rows < num_rows, other=0)
            q_time = tl.load(q_times + row_start + rows, mask=rows < num_rows, other=0)
            s += bias_of(
                table, edges, position.to(tl.int32)[None, :], q_time[None, :], columns[:, None],
                kv_time[:, None], num_positions, NUM_BUCKETS,
            )  # fmt: skip
        visible = seen(columns[:, None], a0[None, :], b0[None, :], a1[None, :], b1[None, :])
        log_sum = tl.zeros([BLOCK_ROWS], tl.float32)
        delta = tl.zeros([BLOCK_ROWS], tl.float32)
        if SOFTMAX:
            at = (row_start + rows) * num_heads + head
            log_sum = tl.load(log_sums + at, mask=rows < num_rows, other=0.0)
            delta = tl.load(deltas + at, mask=rows < num_rows, other=0.0)
        dp = tl.dot(v_tile, tl.trans(do_tile), input_precision="ieee")
        weight, ds = score_gradient(s, dp, visible, log_sum[None, :], delta[None, :], SOFTMAX)
        v_total = tl.dot(weight.to(do_tile.dtype), do_tile, v_total, input_precision="ieee")
        k_total = tl.dot(ds.to(q_tile.dtype), q_tile, k_total, input_precision="ieee")

    base = column_start * num_heads + head
    k_row_out, v_row_out = num_heads.to(tl.int64) * WIDTH, num_heads.to(tl.int64) * VALUE_WIDTH
    k_total, v_total = k_total * (scale / divisor), v_total / divisor
    k_gradient += base * WIDTH
    v_gradient += base * VALUE_WIDTH
    store_rows(k_gradient, columns, num_columns, k_row_out, k_total, WIDTH, BLOCK_WIDTH)
    store_rows(v_gradient, columns, num_columns, v_row_out, v_total, VALUE_WIDTH, BLOCK_VALUE)
