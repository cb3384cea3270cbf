"""Masks that see a whole history: causal, full, target-aware, candidates alone."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.intervals.rows import check_counts, joined, rows_of
from kernels.jagged import positions_of


def causal(lengths: Tensor) -> Tensor:
    """Row i attends rows 0..i of its sequence.

    Shapes: lengths int64[B] -> int32[T,4].

    Example:
        >>> causal(torch.tensor([2])).tolist()
        [[0, 1, 0, 0], [0, 2, 0, 0]]
    """
    return target_aware(lengths, torch.zeros_like(lengths))


def full(lengths: Tensor) -> Tensor:
    """Every row attends its whole sequence.

    Shapes: lengths int64[B] -> int32[T,4].

    Example:
        >>> full(torch.tensor([2])).tolist()
        [[0, 2, 0, 0], [0, 2, 0, 0]]
    """
    rows = rows_of(lengths)
    zero = torch.zeros_like(rows.index)
    return joined(zero, rows.history, zero, zero)


def target_aware(lengths: Tensor, num_targets: Tensor, num_contexts: int = 0) -> Tensor:
    """History rows are causal; a target attends the whole history and itself, no other target.

    A context attends all contexts and the whole history (HSTU's contextual prefix). So do targets in
    micro-batches (M-FALCON, Zhai et al. 2024, section 3.4).

    Shapes: lengths, num_targets int64[B] -> int32[T,4]; sequences are [contexts; history; targets].

    Raises:
        FreshetError: more targets than rows, shapes that differ, a count below 0.

    Example:
        >>> target_aware(torch.tensor([3]), torch.tensor([2])).tolist()
        [[0, 1, 0, 0], [0, 1, 1, 2], [0, 1, 2, 3]]
    """
    rows = rows_of(lengths, num_targets, num_contexts)
    zero = torch.zeros_like(rows.index)
    return rows.targets_attending(rows.attending(zero, rows.index + 1, zero, zero))


def candidates(history_lengths: Tensor, num_candidates: Tensor) -> Tensor:
    """The rows of candidates only, over columns [history; candidates]: the history and itself.

    Shapes: history_lengths, num_candidates int64[B] -> int32[sum(num_candidates),4].

    Raises:
        FreshetError: shapes that differ, a count below 0.

    Example:
        >>> candidates(torch.tensor([5]), torch.tensor([2])).tolist()
        [[0, 5, 5, 6], [0, 5, 6, 7]]
    """
    check_counts("history_lengths", history_lengths)
    check_counts("num_candidates", num_candidates, like=history_lengths)
    history = torch.repeat_interleave(history_lengths, num_candidates)
    own = history + positions_of(num_candidates)
    return joined(torch.zeros_like(own), history, own, own + 1)
