"""What every kernel needs of a tile: its rows, the column tiles it touches, its mask and its bias."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.interval_attention.bias import LOG_STEP

_BUCKETS_PER_E = tl.constexpr(1.0 / LOG_STEP)
_NO_EDGE = tl.constexpr(2**62)
_FAR = tl.constexpr(2**30)


@triton.jit
def load_rows(
    base: tl.tensor,
    rows: tl.tensor,
    num_rows: tl.tensor,
    row_stride: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
) -> tl.tensor:
    """Rows of a [num_rows, WIDTH] matrix; 0 outside of it, so that no neighbour is ever read."""
    column = tl.arange(0, BLOCK_WIDTH)
    inside = (rows < num_rows)[:, None]
    if WIDTH < BLOCK_WIDTH:
        inside = inside & (column < WIDTH)[None, :]
    at = rows.to(tl.int64)[:, None] * row_stride + column[None, :]
    return tl.load(base + at, mask=inside, other=0.0)


@triton.jit
def store_rows(
    base: tl.tensor,
    rows: tl.tensor,
    num_rows: tl.tensor,
    row_stride: tl.tensor,
    values: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
) -> None:
    """The opposite of `load_rows`."""
    column = tl.arange(0, BLOCK_WIDTH)
    inside = (rows < num_rows)[:, None]
    if WIDTH < BLOCK_WIDTH:
        inside = inside & (column < WIDTH)[None, :]
    at = rows.to(tl.int64)[:, None] * row_stride + column[None, :]
    tl.store(base + at, values.to(base.dtype.element_ty), mask=inside)


@triton.jit
def load_intervals(intervals: tl.tensor, rows: tl.tensor, num_rows: tl.tensor) -> tl.tensor:
    """a0, b0, a1, b1 of the rows; empty outside."""
    at = intervals + rows.to(tl.int64) * 4
    inside = rows < num_rows
    a0 = tl.load(at, mask=inside, other=0)
    b0 = tl.load(at + 1, mask=inside, other=0)
    a1 = tl.load(at + 2, mask=inside, other=0)
    b1 = tl.load(at + 3, mask=inside, other=0)
    return a0, b0, a1, b1


@triton.jit
def span(start: tl.tensor, end: tl.tensor) -> tl.tensor:
    """The smallest [lo, hi) around the non-empty [start, end); lo is far and hi 0 without any."""
    some = end > start
    return tl.min(tl.where(some, start, _FAR), 0), tl.max(tl.where(some, end, 0), 0)


@triton.jit
def two_runs(
    lo0: tl.tensor, hi0: tl.tensor, lo1: tl.tensor, hi1: tl.tensor, BLOCK: tl.constexpr
) -> tl.tensor:
    """The tiles that [lo0,hi0) and [lo1,hi1) touch, each once, as two runs: first, length, twice."""
    low, low_end = tl.minimum(lo0, lo1), tl.where(lo0 <= lo1, hi0, hi1)
    high, high_end = tl.maximum(lo0, lo1), tl.where(lo0 <= lo1, hi1, hi0)
    first, first_end = low // BLOCK, tl.cdiv(low_end, BLOCK)
    second = tl.maximum(high // BLOCK, first_end)
    num_first = tl.maximum(first_end - first, 0)
    return first, num_first, second, tl.maximum(tl.cdiv(high_end, BLOCK) - second, 0)


@triton.jit
def seen(
    column: tl.tensor, a0: tl.tensor, b0: tl.tensor, a1: tl.tensor, b1: tl.tensor
) -> tl.tensor:
    """The mask of a tile."""
    return ((column >= a0) & (column < b0)) | ((column >= a1) & (column < b1))


@triton.jit
def bucket_of(elapsed_ms: tl.tensor, edges: tl.tensor, NUM_BUCKETS: tl.constexpr) -> tl.tensor:
    """`bias.time_bucket`: a logarithm guesses within one, the whole-millisecond edges decide."""
    seconds = tl.maximum(elapsed_ms, 1).to(tl.float32) * 0.001
    guess = (tl.log(seconds) * _BUCKETS_PER_E).to(tl.int32)
    guess = tl.minimum(tl.maximum(guess, 0), NUM_BUCKETS - 1)
    guess = tl.where(elapsed_ms >= _NO_EDGE, NUM_BUCKETS - 1, guess)
    lower = tl.load(edges + tl.maximum(guess - 1, 0))
    upper = tl.load(edges + tl.minimum(guess, NUM_BUCKETS - 2))
    too_high = (guess > 0) & (elapsed_ms < lower)
    too_low = (guess < NUM_BUCKETS - 1) & (elapsed_ms >= upper)
    return guess - too_high.to(tl.int32) + too_low.to(tl.int32)


@triton.jit
def bias_of(
    table: tl.tensor,
    edges: tl.tensor,
    position: tl.tensor,
    q_time: tl.tensor,
    column: tl.tensor,
    kv_time: tl.tensor,
    num_positions: tl.tensor,
    NUM_BUCKETS: tl.constexpr,
) -> tl.tensor:
    """The bias of a tile: the joined table, looked up by operands that broadcast to it."""
    distance = tl.minimum(tl.maximum(position - column, 0), num_positions - 1)
    if NUM_BUCKETS > 1:
        bucket = bucket_of(q_time - kv_time, edges, NUM_BUCKETS)
        distance = distance * NUM_BUCKETS + bucket
    return tl.load(table + distance).to(tl.float32)


@triton.jit
def score_gradient(
    s: tl.tensor,
    dp: tl.tensor,
    visible: tl.tensor,
    log_sum: tl.tensor,
    delta: tl.tensor,
    SOFTMAX: tl.constexpr,
) -> tl.tensor:
    """The weights, and the gradient of the scores given that of the weights."""
    if SOFTMAX:
        weight = tl.where(visible, tl.exp(s - log_sum), 0.0)
        return weight, weight * (dp - delta)
    else:
        gate = tl.sigmoid(s)
        weight = tl.where(visible, s * gate, 0.0)
        return weight, tl.where(visible, dp * gate * (1.0 + s * (1.0 - gate)), 0.0)
