"""Builders of attention masks: per row the two column intervals [a0, b0) and [a1, b1) it attends."""

from __future__ import annotations

import torch
from torch import Tensor

from ingest.runtime.errors import FreshetError
from kernels.jagged import positions_of


def causal(lengths: Tensor) -> Tensor:
    """Row i attends rows 0..i of its sequence.

    Shapes: lengths int64[B] -> int32[T,4].

    Example:
        >>> causal(torch.tensor([2])).tolist()
        [[0, 1, 0, 0], [0, 2, 0, 0]]
    """
    return target_aware(lengths, torch.zeros_like(lengths))


def target_aware(lengths: Tensor, num_targets: Tensor) -> Tensor:
    """History rows are causal; a target attends the whole history and itself, no other target.

    Shapes: lengths, num_targets int64[B] -> int32[T,4]; the last num_targets[b] rows of sequence b
    are its targets.

    Raises:
        FreshetError: more targets than rows, or shapes that differ.

    Example:
        >>> target_aware(torch.tensor([3]), torch.tensor([2])).tolist()
        [[0, 1, 0, 0], [0, 1, 1, 2], [0, 1, 2, 3]]
    """
    if lengths.shape != num_targets.shape or bool((num_targets > lengths).any()):
        raise FreshetError(
            "targets do not fit their sequences",
            detail=f"lengths {lengths.tolist()[:8]}, num_targets {num_targets.tolist()[:8]}.",
        )
    row = positions_of(lengths)
    history = torch.repeat_interleave(lengths - num_targets, lengths)
    targets = row >= history
    zero = torch.zeros_like(row)
    return torch.stack(
        [
            zero,
            torch.where(targets, history, row + 1),
            torch.where(targets, row, zero),
            torch.where(targets, row + 1, zero),
        ],
        dim=1,
    ).int()


def candidates(history_lengths: Tensor, num_candidates: Tensor) -> Tensor:
    """The rows of candidates only, over columns [history; candidates]: the history and itself.

    Shapes: history_lengths, num_candidates int64[B] -> int32[sum(num_candidates),4].

    Example:
        >>> candidates(torch.tensor([5]), torch.tensor([2])).tolist()
        [[0, 5, 5, 6], [0, 5, 6, 7]]
    """
    history = torch.repeat_interleave(history_lengths, num_candidates)
    own = history + positions_of(num_candidates)
    return torch.stack([torch.zeros_like(own), history, own, own + 1], dim=1).int()


def num_pairs(intervals: Tensor) -> int:
    """How many (query, key) pairs a mask lets through: the exact cost of attention, in dot products.

    Shapes: intervals int32[T,4].

    Example:
        >>> num_pairs(causal(torch.tensor([3])))
        6
    """
    a0, b0, a1, b1 = intervals.long().unbind(1)
    return int(((b0 - a0).clamp(min=0) + (b1 - a1).clamp(min=0)).sum())
