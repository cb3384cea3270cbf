"""What every kernel needs of a tile: where it lies, what its rows see, its scores and its bias."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from kernels.interval_attention.bias import LOG_STEP

_BUCKETS_PER_E = tl.constexpr(1.0 / LOG_STEP)
# More than a float32 logarithm errs, in buckets: the guess is never too high.
_GUESS_LOW = tl.constexpr(1.0 / 64)
# The boundaries of later buckets do not fit an int64: they are all 2**62 (`bias.edges_ms`).
_BUCKETS_WITH_EDGES = tl.constexpr(120)
_NO_EDGE = tl.constexpr(2**62)
_FAR = tl.constexpr(2**30)


class Matrix(NamedTuple):
    """[T,H,width], the last dimension dense; or [T,H]. Strides are in elements."""

    data: tl.tensor
    row_stride: tl.tensor
    head_stride: tl.tensor


class Tiling(NamedTuple):
    """Sequences cut into tiles, one per program: see `launch.Tiles`."""

    offsets: tl.tensor
    sequences: tl.tensor
    first: tl.tensor


class Block(NamedTuple):
    """Rows of a sequence: where it starts in the tensor, its length, and which of its rows."""

    start: tl.tensor
    length: tl.tensor
    index: tl.tensor


class Bias(NamedTuple):
    """Both tables of the bias and what they are looked up by: see `bias.Bias`."""

    by_distance: tl.tensor
    by_bucket: tl.tensor
    edges: tl.tensor
    q_positions: tl.tensor
    q_times: tl.tensor
    kv_times: tl.tensor


class Queries(NamedTuple):
    """What is known of query rows whatever the head: their intervals, positions and times."""

    a0: tl.tensor
    b0: tl.tensor
    a1: tl.tensor
    b1: tl.tensor
    position: tl.tensor
    time: tl.tensor


class Runs(NamedTuple):
    """Two runs of tiles that do not overlap: each one's first, and how many."""

    first: tl.tensor
    num_first: tl.tensor
    second: tl.tensor
    num_second: tl.tensor


@triton.jit
def sequence_at(offsets: tl.tensor, sequence: tl.tensor) -> tl.tensor:
    """Where a sequence starts (int64), and its length (int32)."""
    start = tl.load(offsets + sequence)
    return start, (tl.load(offsets + sequence + 1) - start).to(tl.int32)


@triton.jit
def block_of(tiling: Tiling, BLOCK: tl.constexpr) -> tl.tensor:
    """The program's sequence and its rows of it; all past the end where no tile is left."""
    tile = tl.program_id(0)
    sequence = tl.load(tiling.sequences + tile)
    start, length = sequence_at(tiling.offsets, sequence)
    first = (tile - tl.load(tiling.first + sequence)) * BLOCK
    return sequence, Block(start, length, first + tl.arange(0, BLOCK))


@triton.jit
def load_tile(
    x: Matrix, head: tl.tensor, block: Block, WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr
) -> tl.tensor:
    """Rows of a [T,H,WIDTH] matrix; 0 outside of it, so that no neighbour is ever read."""
    column = tl.arange(0, BLOCK_WIDTH)
    inside = (block.index < block.length)[:, None]
    if WIDTH < BLOCK_WIDTH:
        inside = inside & (column < WIDTH)[None, :]
    base = x.data + block.start * x.row_stride + head * x.head_stride
    at = block.index.to(tl.int64)[:, None] * x.row_stride + column[None, :]
    return tl.load(base + at, mask=inside, other=0.0)


@triton.jit
def store_tile(
    x: Matrix,
    head: tl.tensor,
    block: Block,
    values: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
) -> None:
    """The opposite of `load_tile`."""
    column = tl.arange(0, BLOCK_WIDTH)
    inside = (block.index < block.length)[:, None]
    if WIDTH < BLOCK_WIDTH:
        inside = inside & (column < WIDTH)[None, :]
    base = x.data + block.start * x.row_stride + head * x.head_stride
    at = block.index.to(tl.int64)[:, None] * x.row_stride + column[None, :]
    tl.store(base + at, values.to(x.data.dtype.element_ty), mask=inside)


@triton.jit
def load_numbers(x: Matrix, head: tl.tensor, block: Block) -> tl.tensor:
    """One number per row of a [T,H] matrix."""
    at = (block.start + block.index) * x.row_stride + head * x.head_stride
    return tl.load(x.data + at, mask=block.index < block.length, other=0.0)


@triton.jit
def store_numbers(x: Matrix, head: tl.tensor, block: Block, values: tl.tensor) -> None:
    """The opposite of `load_numbers`."""
    at = (block.start + block.index) * x.row_stride + head * x.head_stride
    tl.store(x.data + at, values, mask=block.index < block.length)


@triton.jit
def load_queries(
    intervals: tl.tensor,
    bias: Bias,
    block: Block,
    NUM_POSITIONS: tl.constexpr,
    NUM_BUCKETS: tl.constexpr,
) -> Queries:
    """What the rows of a block see; nothing where they are past the sequence's end."""
    rows, inside = block.start + block.index, block.index < block.length
    a0 = tl.load(intervals + rows * 4, mask=inside, other=0)
    b0 = tl.load(intervals + rows * 4 + 1, mask=inside, other=0)
    a1 = tl.load(intervals + rows * 4 + 2, mask=inside, other=0)
    b1 = tl.load(intervals + rows * 4 + 3, mask=inside, other=0)
    position, time = a0, a0
    if NUM_POSITIONS > 0:
        position = tl.load(bias.q_positions + rows, mask=inside, other=0)
        position = tl.minimum(tl.maximum(position, -_FAR), _FAR).to(tl.int32)
    if NUM_BUCKETS > 0:
        time = tl.load(bias.q_times + rows, mask=inside, other=0)
    return Queries(a0, b0, a1, b1, position, time)


@triton.jit
def span(start: tl.tensor, end: tl.tensor) -> tl.tensor:
    """The smallest [lo, hi) around the non-empty [start, end); lo is far and hi 0 without any."""
    some = end > start
    return tl.min(tl.where(some, start, _FAR), 0), tl.max(tl.where(some, end, 0), 0)


@triton.jit
def two_runs(
    lo0: tl.tensor, hi0: tl.tensor, lo1: tl.tensor, hi1: tl.tensor, BLOCK: tl.constexpr
) -> Runs:
    """The tiles that [lo0,hi0) and [lo1,hi1) touch, each once."""
    low, low_end = tl.minimum(lo0, lo1), tl.where(lo0 <= lo1, hi0, hi1)
    high, high_end = tl.maximum(lo0, lo1), tl.where(lo0 <= lo1, hi1, hi0)
    first, first_end = low // BLOCK, tl.cdiv(low_end, BLOCK)
    second = tl.maximum(high // BLOCK, first_end)
    num_first = tl.maximum(first_end - first, 0)
    return Runs(first, num_first, second, tl.maximum(tl.cdiv(high_end, BLOCK) - second, 0))


@triton.jit
def column_runs(queries: Queries, BLOCK: tl.constexpr) -> Runs:
    """The tiles of columns that some of the rows see."""
    lo0, hi0 = span(queries.a0, queries.b0)
    lo1, hi1 = span(queries.a1, queries.b1)
    return two_runs(lo0, hi0, lo1, hi1, BLOCK)


@triton.jit
def nth_index(runs: Runs, step: tl.tensor, BLOCK: tl.constexpr) -> tl.tensor:
    """The rows or columns of the nth tile of both runs."""
    later = runs.second + step - runs.num_first
    return tl.where(step < runs.num_first, runs.first + step, later) * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def visible_pairs(queries: Queries, column: tl.tensor, ROWS: tl.constexpr) -> tl.tensor:
    """The mask of a tile of scores whose rows lie along dimension ROWS, its columns along the other."""
    column = tl.expand_dims(column, ROWS)
    a0, b0 = tl.expand_dims(queries.a0, 1 - ROWS), tl.expand_dims(queries.b0, 1 - ROWS)
    a1, b1 = tl.expand_dims(queries.a1, 1 - ROWS), tl.expand_dims(queries.b1, 1 - ROWS)
    return ((column >= a0) & (column < b0)) | ((column >= a1) & (column < b1))


@triton.jit
def buckets_of_pairs(
    bias: Bias, queries: Queries, columns: Block, ROWS: tl.constexpr, NUM_BUCKETS: tl.constexpr
) -> tl.tensor:
    """`bias.time_bucket`: a logarithm guesses it or the one before, the exact boundary decides."""
    at, inside = columns.start + columns.index, columns.index < columns.length
    kv_time = tl.load(bias.kv_times + at, mask=inside, other=0)
    elapsed_ms = tl.expand_dims(queries.time, 1 - ROWS) - tl.expand_dims(kv_time, ROWS)
    if NUM_BUCKETS == 1:
        return (elapsed_ms * 0).to(tl.int32)
    seconds = tl.maximum(elapsed_ms, 1).to(tl.float32) * 0.001
    guess = (tl.log(seconds) * _BUCKETS_PER_E - _GUESS_LOW).to(tl.int32)
    guess = tl.minimum(tl.maximum(guess, 0), NUM_BUCKETS - 2)
    bucket = guess + (elapsed_ms >= tl.load(bias.edges + guess)).to(tl.int32)
    if NUM_BUCKETS > _BUCKETS_WITH_EDGES:
        bucket = tl.where(elapsed_ms >= _NO_EDGE, NUM_BUCKETS - 1, bucket)
    return bucket


@triton.jit
def add_bias(
    s: tl.tensor,
    bias: Bias,
    queries: Queries,
    columns: Block,
    ROWS: tl.constexpr,
    NUM_POSITIONS: tl.constexpr,
    NUM_BUCKETS: tl.constexpr,
) -> tl.tensor:
    """A tile of scores with its bias; the rows lie along dimension ROWS."""
    if NUM_POSITIONS > 0:
        distance = tl.expand_dims(queries.position, 1 - ROWS) - tl.expand_dims(columns.index, ROWS)
        distance = tl.minimum(tl.maximum(distance, 0), NUM_POSITIONS - 1)
        s += tl.load(bias.by_distance + distance).to(tl.float32)
    if NUM_BUCKETS > 0:
        bucket = buckets_of_pairs(bias, queries, columns, ROWS, NUM_BUCKETS)
        s += tl.load(bias.by_bucket + bucket).to(tl.float32)
    return s


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
