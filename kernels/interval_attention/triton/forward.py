"""The forward kernel: one program per tile of query rows and head."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.interval_attention.triton.tiles import (
    bias_of,
    load_intervals,
    load_rows,
    seen,
    span,
    store_rows,
    two_runs,
)


@triton.jit
def forward_kernel(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    out: tl.tensor,
    log_sums: tl.tensor,
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
    """Write `out` and, for softmax, the logarithm of each row's sum of exponentials."""
    tile, head, num_heads = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.num_programs(1)
    sequence = tl.load(tile_sequences + tile)
    if sequence >= num_sequences:
        return
    row_start = tl.load(q_offsets + sequence)
    num_rows = (tl.load(q_offsets + sequence + 1) - row_start).to(tl.int32)
    column_start = tl.load(kv_offsets + sequence)
    num_columns = (tl.load(kv_offsets + sequence + 1) - column_start).to(tl.int32)
    rows = (tile - tl.load(first_tiles + sequence)) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)

    k += column_start * k_row + head * k_head
    v += column_start * v_row + head * v_head
    q_base = q + row_start * q_row + head * q_head
    q_tile = load_rows(q_base, rows, num_rows, q_row, WIDTH, BLOCK_WIDTH)
    a0, b0, a1, b1 = load_intervals(intervals + row_start * 4, rows, num_rows)
    lo0, hi0 = span(a0, b0)
    lo1, hi1 = span(a1, b1)
    first, num_first, second, num_second = two_runs(lo0, hi0, lo1, hi1, BLOCK_COLUMNS)
    if HAS_BIAS:
        position = tl.load(q_positions + row_start + rows, mask=rows < num_rows, other=0)
        position = position.to(tl.int32)
        q_time = tl.load(q_times + row_start + rows, mask=rows < num_rows, other=0)

    total = tl.zeros([BLOCK_ROWS, BLOCK_VALUE], tl.float32)
    peak = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    mass = tl.zeros([BLOCK_ROWS], tl.float32)
    for step in range(num_first + num_second):
        column_tile = tl.where(step < num_first, first + step, second + step - num_first)
        columns = column_tile * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
        k_tile = load_rows(k, columns, num_columns, k_row, WIDTH, BLOCK_WIDTH)
        v_tile = load_rows(v, columns, num_columns, v_row, VALUE_WIDTH, BLOCK_VALUE)
        s = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale
        column = columns[None, :]
        if HAS_BIAS:
            at = kv_times + column_start + columns
            kv_time = tl.load(at, mask=columns < num_columns, other=0)
            s += bias_of(
                table, edges, position[:, None], q_time[:, None], column, kv_time[None, :],
                num_positions, NUM_BUCKETS,
            )  # fmt: skip
        visible = seen(column, a0[:, None], b0[:, None], a1[:, None], b1[:, None])
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
        total = tl.dot(weight.to(v_tile.dtype), v_tile, total, input_precision="ieee")

    if SOFTMAX:
        total = total / tl.where(mass > 0, mass, 1.0)[:, None]
        log_sum = tl.where(mass > 0, peak + tl.log(tl.where(mass > 0, mass, 1.0)), 0.0)
        at = log_sums + (row_start + rows) * num_heads + head
        tl.store(at, log_sum, mask=rows < num_rows)
    out += (row_start * num_heads + head) * VALUE_WIDTH
    out_row = num_heads.to(tl.int64) * VALUE_WIDTH
    store_rows(out, rows, num_rows, out_row, total / divisor, VALUE_WIDTH, BLOCK_VALUE)
