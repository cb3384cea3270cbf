"""What builders of masks know about a row, what they refuse, and how intervals are joined."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ingest.runtime.errors import FreshetError
from kernels.jagged import positions_of


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of sequences [contexts; history; targets].

    Shapes: `index` int64[T], the place in the sequence; `history` int64[T], how many rows of the
    sequence are no targets; `is_context`, `is_target` bool[T].
    """

    index: Tensor
    history: Tensor
    is_context: Tensor
    is_target: Tensor

    def attending(self, a0: Tensor, b0: Tensor, a1: Tensor, b1: Tensor) -> Tensor:
        """History rows attend the given; a context all that is no target.

        Shapes: int64[T] each -> int32[T,4].
        """
        zero = torch.zeros_like(self.index)
        a0, a1, b1 = (torch.where(self.is_context, zero, x) for x in (a0, a1, b1))
        return joined(a0, torch.where(self.is_context, self.history, b0), a1, b1)

    def targets_attending(self, mask: Tensor, start: Tensor | None = None) -> Tensor:
        """A target attends the history from `start` (default: all) and itself; others as in `mask`.

        Shapes: mask int32[T,4], start int64[T] -> int32[T,4].
        """
        start = torch.zeros_like(self.index) if start is None else start
        target = joined(start, self.history, self.index, self.index + 1)
        return torch.where(self.is_target[:, None], target, mask)


def rows_of(lengths: Tensor, num_targets: Tensor | None = None, num_contexts: int = 0) -> Rows:
    """The first `num_contexts` rows of a sequence are contexts, its last `num_targets` targets.

    Shapes: lengths, num_targets int64[B]. In a sequence without room for both, targets win.

    Raises:
        FreshetError: counts below 0, more targets than rows, another dtype or shape.
    """
    check_counts("lengths", lengths)
    check_at_least("num_contexts", num_contexts, 0)
    history = lengths
    if num_targets is not None:
        check_counts("num_targets", num_targets, within=lengths)
        history = lengths - num_targets
    index, history = positions_of(lengths), torch.repeat_interleave(history, lengths)
    return Rows(
        index=index,
        history=history,
        is_context=index < num_contexts,
        is_target=index >= history,
    )


def joined(a0: Tensor, b0: Tensor, a1: Tensor, b1: Tensor) -> Tensor:
    """Intervals [a0, b0) and [a1, b1), each [0, 0) where it is empty.

    Shapes: int64[T] each -> int32[T,4].
    """
    edges = torch.stack([a0, b0, a1, b1], dim=1)
    full = torch.stack([a0 < b0, a0 < b0, a1 < b1, a1 < b1], dim=1)
    return torch.where(full, edges, 0).int()


def check_counts(
    name: str, counts: Tensor, *, like: Tensor | None = None, within: Tensor | None = None
) -> None:
    """Refuse what is not int64[B] of counts at least 0, as many as in `like`, at most `within`."""
    if counts.dtype != torch.int64 or counts.dim() != 1:
        raise refused(name, f"They are {tuple(counts.shape)} {counts.dtype}, not int64 [B].")
    like = within if like is None else like
    if like is not None and (counts.shape, counts.device) != (like.shape, like.device):
        raise refused(
            name,
            f"They are {tuple(counts.shape)} on {counts.device}, not {tuple(like.shape)} on "
            f"{like.device}.",
        )
    outside = counts < 0 if within is None else (counts < 0) | (counts > within)
    if bool(outside.any()):
        b = int(outside.nonzero()[0, 0])
        room = "" if within is None else f"; there is room for {int(within[b])}"
        raise refused(name, f"Sequence {b} has {int(counts[b])}{room}.")


def check_at_least(name: str, value: int, least: int) -> None:
    """Refuse a number below `least`."""
    if value < least:
        raise refused(name, f"It is {value}; wanted at least {least}.")


def refused(argument: str, detail: str) -> FreshetError:
    """The error that names a builder's bad argument."""
    return FreshetError(f"the mask refuses {argument}", detail=detail)
