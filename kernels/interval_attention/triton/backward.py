"""The backward kernels of q and of k, v: each gradient has one writer, so nothing is added atomically."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.interval_attention.triton.tiles import (
    Bias,
    Block,
    Matrix,
    Runs,
    Tiling,
    add_bias,
    block_of,
    column_runs,
    load_numbers,
    load_queries,
    load_tile,
    nth_index,
    score_gradient,
    sequence_at,
    span,
    store_numbers,
    store_tile,
    two_runs,
    visible_pairs,
)


@triton.jit
def query_gradient_kernel(
    q: Matrix,
    k: Matrix,
    v: Matrix,
    out: Matrix,
    out_gradient: Matrix,
    log_sums: Matrix,
    deltas: Matrix,
    q_gradient: Matrix,
    row_tiles: Tiling,
    kv_offsets: tl.tensor,
    intervals: tl.tensor,
    bias: Bias,
    scale: tl.tensor,
    divisor: tl.tensor,
    SOFTMAX: tl.constexpr,
    NUM_POSITIONS: tl.constexpr,
    NUM_BUCKETS: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_VALUE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """Write the gradient of q, and for softmax each row's <out, its gradient>."""
    head = tl.program_id(1).to(tl.int64)
    sequence, rows = block_of(row_tiles, BLOCK_ROWS)
    column_start, num_columns = sequence_at(kv_offsets, sequence)
    queries = load_queries(intervals, bias, rows, NUM_POSITIONS, NUM_BUCKETS)
    runs = column_runs(queries, BLOCK_COLUMNS)
    q_tile = load_tile(q, head, rows, WIDTH, BLOCK_WIDTH)
    do_tile = load_tile(out_gradient, head, rows, VALUE_WIDTH, BLOCK_VALUE)
    log_sum = tl.zeros([BLOCK_ROWS], tl.float32)
    delta = tl.zeros([BLOCK_ROWS], tl.float32)
    if SOFTMAX:
        o_tile = load_tile(out, head, rows, VALUE_WIDTH, BLOCK_VALUE)
        delta = tl.sum(o_tile.to(tl.float32) * do_tile.to(tl.float32), 1)
        store_numbers(deltas, head, rows, delta)
        log_sum = load_numbers(log_sums, head, rows)

    total = tl.zeros([BLOCK_ROWS, BLOCK_WIDTH], tl.float32)
    for step in range(runs.num_first + runs.num_second):
        columns = Block(column_start, num_columns, nth_index(runs, step, BLOCK_COLUMNS))
        k_tile = load_tile(k, head, columns, WIDTH, BLOCK_WIDTH)
        v_tile = load_tile(v, head, columns, VALUE_WIDTH, BLOCK_VALUE)
        s = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * scale
        s = add_bias(s, bias, queries, columns, 0, NUM_POSITIONS, NUM_BUCKETS)
        visible = visible_pairs(queries, columns.index, 0)
        dp = tl.dot(do_tile, tl.trans(v_tile), input_precision=PRECISION)
        ds = score_gradient(s, dp, visible, log_sum[:, None], delta[:, None], SOFTMAX)[1]
        total = tl.dot(ds.to(k_tile.dtype), k_tile, total, input_precision=PRECISION)
    store_tile(q_gradient, head, rows, total * (scale / divisor), WIDTH, BLOCK_WIDTH)


@triton.jit
def row_spans_kernel(
    spans: tl.tensor, row_tiles: Tiling, intervals: tl.tensor, BLOCK_ROWS: tl.constexpr
) -> None:
    """Write what columns a tile of rows sees: [lo0,hi0) and [lo1,hi1), int32[tiles,4]."""
    _, rows = block_of(row_tiles, BLOCK_ROWS)
    queries = load_queries(intervals, None, rows, 0, 0)
    lo0, hi0 = span(queries.a0, queries.b0)
    lo1, hi1 = span(queries.a1, queries.b1)
    spans += tl.program_id(0).to(tl.int64) * 4
    tl.store(spans, lo0)
    tl.store(spans + 1, hi0)
    tl.store(spans + 2, lo1)
    tl.store(spans + 3, hi1)


@triton.jit
def row_runs(
    spans: tl.tensor, num_tiles: tl.tensor, start: tl.tensor, end: tl.tensor, CHUNK: tl.constexpr
) -> Runs:
    """The tiles of rows that may see a column of [start, end)."""
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
def key_value_gradient_kernel(
    q: Matrix,
    k: Matrix,
    v: Matrix,
    out_gradient: Matrix,
    log_sums: Matrix,
    deltas: Matrix,
    k_gradient: Matrix,
    v_gradient: Matrix,
    spans: tl.tensor,
    row_tiles: Tiling,
    column_tiles: Tiling,
    intervals: tl.tensor,
    bias: Bias,
    scale: tl.tensor,
    divisor: tl.tensor,
    SOFTMAX: tl.constexpr,
    NUM_POSITIONS: tl.constexpr,
    NUM_BUCKETS: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_VALUE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """Write the gradients of k and v of a tile of columns; tiles of scores lie [columns, rows]."""
    head = tl.program_id(1).to(tl.int64)
    sequence, columns = block_of(column_tiles, BLOCK_COLUMNS)
    row_start, num_rows = sequence_at(row_tiles.offsets, sequence)
    k_tile = load_tile(k, head, columns, WIDTH, BLOCK_WIDTH)
    v_tile = load_tile(v, head, columns, VALUE_WIDTH, BLOCK_VALUE)
    spans += tl.load(row_tiles.first + sequence).to(tl.int64) * 4
    start = tl.min(columns.index, 0)
    runs = row_runs(spans, tl.cdiv(num_rows, BLOCK_ROWS), start, start + BLOCK_COLUMNS, 128)

    k_total = tl.zeros([BLOCK_COLUMNS, BLOCK_WIDTH], tl.float32)
    v_total = tl.zeros([BLOCK_COLUMNS, BLOCK_VALUE], tl.float32)
    for step in range(runs.num_first + runs.num_second):
        rows = Block(row_start, num_rows, nth_index(runs, step, BLOCK_ROWS))
        queries = load_queries(intervals, bias, rows, NUM_POSITIONS, NUM_BUCKETS)
        q_tile = load_tile(q, head, rows, WIDTH, BLOCK_WIDTH)
        do_tile = load_tile(out_gradient, head, rows, VALUE_WIDTH, BLOCK_VALUE)
        s = tl.dot(k_tile, tl.trans(q_tile), input_precision=PRECISION) * scale
        s = add_bias(s, bias, queries, columns, 1, NUM_POSITIONS, NUM_BUCKETS)
        visible = visible_pairs(queries, columns.index, 1)
        log_sum = tl.zeros([BLOCK_ROWS], tl.float32)
        delta = tl.zeros([BLOCK_ROWS], tl.float32)
        if SOFTMAX:
            log_sum = load_numbers(log_sums, head, rows)
            delta = load_numbers(deltas, head, rows)
        dp = tl.dot(v_tile, tl.trans(do_tile), input_precision=PRECISION)
        weight, ds = score_gradient(s, dp, visible, log_sum[None, :], delta[None, :], SOFTMAX)
        v_total = tl.dot(weight.to(do_tile.dtype), do_tile, v_total, input_precision=PRECISION)
        k_total = tl.dot(ds.to(q_tile.dtype), q_tile, k_total, input_precision=PRECISION)
    store_tile(k_gradient, head, columns, k_total * (scale / divisor), WIDTH, BLOCK_WIDTH)
    store_tile(v_gradient, head, columns, v_total / divisor, VALUE_WIDTH, BLOCK_VALUE)
