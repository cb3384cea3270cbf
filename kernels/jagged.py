"""Row arithmetic of jagged tensors: sequences of different lengths laid end to end."""

from __future__ import annotations

import torch
from torch import Tensor


def offsets_of(lengths: Tensor) -> Tensor:
    """Where each sequence starts, and the end.

    Shapes: lengths int64[B] -> offsets int64[B+1].

    Example:
        >>> offsets_of(torch.tensor([2, 0, 3]))
        tensor([0, 2, 2, 5])
    """
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def sequence_of(lengths: Tensor) -> Tensor:
    """The sequence each row belongs to.

    Shapes: lengths int64[B] -> int64[T].

    Example:
        >>> sequence_of(torch.tensor([2, 0, 3]))
        tensor([0, 0, 2, 2, 2])
    """
    return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)


def positions_of(lengths: Tensor) -> Tensor:
    """Each row's place in its own sequence, from 0.

    Shapes: lengths int64[B] -> int64[T].

    Example:
        >>> positions_of(torch.tensor([2, 0, 3]))
        tensor([0, 1, 0, 1, 2])
    """
    starts = lengths.cumsum(0) - lengths
    total = int(lengths.sum())
    return torch.arange(total, device=lengths.device) - torch.repeat_interleave(starts, lengths)


def concat_index(first_lengths: Tensor, second_lengths: Tensor) -> Tensor:
    """Where the rows of `concat` come from, among the first's rows and then the second's.

    Shapes: first_lengths, second_lengths int64[B] -> int64[T1+T2].

    Example:
        >>> concat_index(torch.tensor([2, 0]), torch.tensor([1, 1]))
        tensor([0, 1, 2, 3])
        >>> concat_index(torch.tensor([1, 1]), torch.tensor([1, 1]))
        tensor([0, 2, 1, 3])
    """
    lengths = first_lengths + second_lengths
    position, owner = positions_of(lengths), sequence_of(lengths)
    inside = first_lengths.index_select(0, owner)
    first = offsets_of(first_lengths).index_select(0, owner) + position
    second = offsets_of(second_lengths).index_select(0, owner) + position - inside
    return torch.where(position < inside, first, first_lengths.sum() + second)


def concat(first: Tensor, second: Tensor, first_lengths: Tensor, second_lengths: Tensor) -> Tensor:
    """Each sequence's rows of `first`, then its rows of `second`.

    Shapes: first [T1,...], second [T2,...], lengths int64[B] each -> [T1+T2,...].

    Example:
        >>> one, two = torch.tensor([1, 2]), torch.tensor([10, 20])
        >>> concat(one, two, torch.tensor([1, 1]), torch.tensor([1, 1]))
        tensor([ 1, 10,  2, 20])
    """
    return torch.cat([first, second]).index_select(0, concat_index(first_lengths, second_lengths))


def split(x: Tensor, first_lengths: Tensor, second_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The opposite of `concat`: each sequence's first rows, and the rest.

    Shapes: x [T1+T2,...], lengths int64[B] each -> [T1,...], [T2,...].

    Example:
        >>> split(torch.tensor([1, 10, 2, 20]), torch.tensor([1, 1]), torch.tensor([1, 1]))
        (tensor([1, 2]), tensor([10, 20]))
    """
    lengths = first_lengths + second_lengths
    is_first = positions_of(lengths) < torch.repeat_interleave(first_lengths, lengths)
    return x[is_first], x[~is_first]


def gather(x: Tensor, lengths: Tensor, positions: Tensor, default: Tensor) -> Tensor:
    """One row of each sequence; `default` where the position is not one of the sequence's.

    Shapes: x [T,...], lengths, positions int64[B], default [...] -> [B,...].

    Example:
        >>> x, lengths = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([2, 0, 1])
        >>> gather(x, lengths, lengths - 1, torch.tensor([9.0])).tolist()
        [[2.0], [9.0], [3.0]]
    """
    inside = (positions >= 0) & (positions < lengths)
    # Row 0 is the default.
    rows = torch.where(inside, offsets_of(lengths)[:-1] + positions + 1, 0)
    return torch.cat([default[None], x]).index_select(0, rows)


def reverse(x: Tensor, lengths: Tensor) -> Tensor:
    """Each sequence's rows, last first.

    Shapes: x [T,...], lengths int64[B] -> [T,...].

    Example:
        >>> reverse(torch.tensor([1, 2, 3]), torch.tensor([2, 1]))
        tensor([2, 1, 3])
    """
    position = positions_of(lengths)
    row = torch.arange(len(position), device=x.device)
    last = torch.repeat_interleave(lengths, lengths) - 1
    return x.index_select(0, row + last - 2 * position)
