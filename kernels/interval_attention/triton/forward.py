"""The forward kernel: one program per tile of query rows and head."""

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
    column_runs,
    load_queries,
    load_tile,
    nth_index,
    sequence_at,
    store_numbers,
    store_tile,
    visible_pairs,
)


@triton.jit
def forward_kernel(
    q: Matrix,
    k: Matrix,
    v: Matrix,
    out: Matrix,
    log_sums: Matrix,
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
    """Write `out` and, for softmax, the logarithm of each row's sum of exponentials."""
    head = tl.program_id(1).to(tl.int64)
    sequence, rows = block_of(row_tiles, BLOCK_ROWS)
    column_start, num_columns = sequence_at(kv_offsets, sequence)
    queries = load_queries(intervals, bias, rows, NUM_POSITIONS, NUM_BUCKETS)
    runs = column_runs(queries, BLOCK_COLUMNS)
    q_tile = load_tile(q, head, rows, WIDTH, BLOCK_WIDTH)

    total = tl.zeros([BLOCK_ROWS, BLOCK_VALUE], tl.float32)
    peak = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    mass = tl.zeros([BLOCK_ROWS], tl.float32)
    for step in range(runs.num_first + runs.num_second):
        columns = Block(column_start, num_columns, nth_index(runs, step, BLOCK_COLUMNS))
        k_tile = load_tile(k, head, columns, WIDTH, BLOCK_WIDTH)
        v_tile = load_tile(v, head, columns, VALUE_WIDTH, BLOCK_VALUE)
        s = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * scale
        s = add_bias(s, bias, queries, columns, 0, NUM_POSITIONS, NUM_BUCKETS)
        visible = visible_pairs(queries, columns.index, 0)
        if SOFTMAX:
            s = tl.where(visible, s, float("-inf"))
            new_peak = tl.maximum(peak, tl.max(s, 1))
            # A row that has seen nothing yet subtracts 0, not its peak: -inf - -inf is no number.
            base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
            weight = tl.exp(s - base[:, None])
            shrink = tl.exp(peak - base)
            mass = mass * shrink + tl.sum(weight, 1)
            total = total * shrink[:, None]
            peak = new_peak
        else:
            weight = tl.where(visible, s * tl.sigmoid(s), 0.0)
        total = tl.dot(weight.to(v_tile.dtype), v_tile, total, input_precision=PRECISION)

    if SOFTMAX:
        some = tl.where(mass > 0, mass, 1.0)
        total = total / some[:, None]
        store_numbers(log_sums, head, rows, tl.where(mass > 0, peak + tl.log(some), 0.0))
    store_tile(out, head, rows, total / divisor, VALUE_WIDTH, BLOCK_VALUE)
