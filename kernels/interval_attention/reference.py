"""The definition of interval attention, in plain PyTorch, differentiated by autograd."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kernels.interval_attention.bias import Bias, PositionBias, TimeBias, time_bucket
from kernels.jagged import positions_of

_SMALLEST_BLOCK = 32


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Sequences padded to the same size: `num` of them, each [padded] rows by [columns] columns."""

    num: int
    padded: int
    columns: int
    rows: Tensor
    row_slots: Tensor
    column_rows: Tensor
    column_slots: Tensor


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_offsets: Tensor,
    kv_offsets: Tensor,
    intervals: Tensor,
    score: str,
    scale: float,
    divisor: float,
    bias: Bias,
) -> Tensor:
    """Attend with checked arguments; see `interval_attention` for shapes.

    Sequences are padded and multiplied in groups of similar length. The padded size depends on a
    sequence's own length only, so neither does its result on the rest of the batch.
    """
    q = q * scale
    outputs, rows = [], []
    for group in _groups(q_offsets.diff(), kv_offsets.diff()):
        logits = _pad_rows(q, group) @ _pad_columns(k, group).transpose(2, 3)
        if (biases := _biases(bias, group)) is not None:
            logits = logits + biases
        mask = _mask(intervals, group)
        if score == "silu":
            weights = functional.silu(logits).masked_fill(~mask, 0.0)
        else:
            # A finite filling keeps a row that attends nothing free of NaN; the product empties it.
            filled = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
            weights = filled.softmax(dim=3) * mask
        padded = weights @ _pad_columns(v, group)
        outputs.append(padded.transpose(1, 2).flatten(0, 1).index_select(0, group.row_slots))
        rows.append(group.rows)
    if not outputs:
        # No rows, but whoever differentiates finds all that they would have come from.
        tables = [part.table for part in (bias.position, bias.time) if part is not None]
        return q @ q.new_zeros(q.shape[2], v.shape[2]) + sum(x.sum() for x in (k, v, *tables))
    return torch.cat(outputs).index_select(0, torch.cat(rows).argsort()) / divisor


def _groups(q_lengths: Tensor, kv_lengths: Tensor) -> Iterator[_Group]:
    padded, columns = _padded_length(q_lengths), _padded_length(kv_lengths)
    sizes = torch.stack([padded, columns], dim=1)
    for pair in torch.unique(sizes[q_lengths > 0], dim=0):
        chosen = (sizes == pair).all(dim=1) & (q_lengths > 0)
        num_rows, num_columns = (int(size) for size in pair)
        rows, row_slots = _place(q_lengths, chosen, num_rows)
        column_rows, column_slots = _place(kv_lengths, chosen, num_columns)
        yield _Group(
            num=int(chosen.sum()),
            padded=num_rows,
            columns=num_columns,
            rows=rows,
            row_slots=row_slots,
            column_rows=column_rows,
            column_slots=column_slots,
        )


def _padded_length(lengths: Tensor) -> Tensor:
    """At most a quarter longer, above one block: few sizes, little waste."""
    octave = torch.log2(lengths.clamp(min=1).double()).floor().long()
    step = (2 ** (octave - 2)).clamp(min=_SMALLEST_BLOCK)
    return (lengths + step - 1) // step * step


def _place(lengths: Tensor, chosen: Tensor, padded: int) -> tuple[Tensor, Tensor]:
    """The chosen sequences' rows, and the slots they take in a padded block."""
    starts = (lengths.cumsum(0) - lengths)[chosen]
    kept = lengths[chosen]
    position = positions_of(kept)
    blocks = torch.arange(len(kept), device=kept.device) * padded
    return (
        torch.repeat_interleave(starts, kept) + position,
        torch.repeat_interleave(blocks, kept) + position,
    )


def _pad(x: Tensor, rows: Tensor, slots: Tensor, num: int, padded: int) -> Tensor:
    block = x.new_zeros((num * padded, *x.shape[1:]))
    return block.index_copy(0, slots, x.index_select(0, rows)).unflatten(0, (num, padded))


def _pad_rows(x: Tensor, group: _Group) -> Tensor:
    return _pad(x, group.rows, group.row_slots, group.num, group.padded).transpose(1, 2)


def _pad_columns(x: Tensor, group: _Group) -> Tensor:
    blocks = _pad(x, group.column_rows, group.column_slots, group.num, group.columns)
    return blocks.transpose(1, 2)


def _mask(intervals: Tensor, group: _Group) -> Tensor:
    """bool[num,1,padded,columns]; padding attends nothing and nobody attends it."""
    edges = _pad(intervals, group.rows, group.row_slots, group.num, group.padded)
    a0, b0, a1, b1 = edges[:, None, :, :, None].unbind(3)
    column = torch.arange(group.columns, dtype=intervals.dtype, device=intervals.device)
    return ((column >= a0) & (column < b0)) | ((column >= a1) & (column < b1))


def _biases(bias: Bias, group: _Group) -> Tensor | None:
    """[num,1,padded,columns], or None without any bias."""
    if bias.position is None and bias.time is None:
        return None
    if bias.time is None:
        assert bias.position is not None
        table, index = bias.position.table, _distances(bias.position, group)
    elif bias.position is None:
        table, index = bias.time.table, _buckets(bias.time, group)
    else:
        # Both tables as one: a pair costs one look-up, and its gradient one addition.
        num_buckets = len(bias.time.table)
        table = (bias.position.table[:, None] + bias.time.table).flatten()
        index = _distances(bias.position, group).mul_(num_buckets).add_(_buckets(bias.time, group))
    return table.index_select(0, index.flatten()).view(index.shape)[:, None]


def _distances(bias: PositionBias, group: _Group) -> Tensor:
    """int32[num,padded,columns]: places in the table."""
    positions = _pad(bias.q_positions, group.rows, group.row_slots, group.num, group.padded)
    farthest = len(bias.table) - 1
    # Beyond these every column is as far as the table goes; within them 32 bits suffice.
    positions = positions.clamp(-1, farthest + group.columns).int()
    column = torch.arange(group.columns, dtype=torch.int32, device=positions.device)
    return (positions[:, :, None] - column).clamp_(0, farthest)


def _buckets(bias: TimeBias, group: _Group) -> Tensor:
    """int32[num,padded,columns]: places in the table."""
    q_times = _pad(bias.q_times_ms, group.rows, group.row_slots, group.num, group.padded)
    kv_times = _pad(
        bias.kv_times_ms, group.column_rows, group.column_slots, group.num, group.columns
    )
    return time_bucket(q_times[:, :, None] - kv_times[:, None, :], len(bias.table))
