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
