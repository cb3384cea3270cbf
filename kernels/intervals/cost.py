"""What attention over a mask costs, exactly."""

from __future__ import annotations

from torch import Tensor


def num_pairs(intervals: Tensor) -> int:
    """How many (query, key) pairs a mask lets through: the exact cost of attention, in dot products.

    Shapes: intervals int32[T,4].

    Example:
        >>> num_pairs(torch.tensor([[0, 1, 0, 0], [0, 2, 0, 0], [0, 2, 2, 3]]))
        6
    """
    a0, b0, a1, b1 = intervals.long().unbind(1)
    return int(((b0 - a0).clamp(min=0) + (b1 - a1).clamp(min=0)).sum())
