"""What attention over a mask costs, exactly."""

from __future__ import annotations

from torch import Tensor


def num_pairs(intervals: Tensor) -> int:
    """How many (query, key) pairs a mask lets through: the exact cost of attention, in dot products.

    Shapes: intervals int32[T,4].

    Example:
        >>> import torch
        >>> num_pairs(torch.tensor([[0, 1, 0, 0], [0, 2, 0, 0], [0, 2, 2, 3]]))
        6
    """
    a0, b0, a1, b1 = intervals.long().unbind(1)
    return int(((b0 - a0).clamp(min=0) + (b1 - a1).clamp(min=0)).sum())


def num_flops(
    intervals: Tensor, *, num_heads: int, width: int, value_width: int, backward: bool = False
) -> int:
    """Floating-point operations of one pass, a multiply-add counted as two.

    Only matrix products count, as in every published utilisation: forward QK' and PV; backward QK'
    anew (nothing else is kept of the scores), dO V', P'dO, dS K and dS'Q.

    Shapes: intervals int32[T,4]; D = `width`, V = `value_width`.

    Example:
        >>> import torch
        >>> one_pair = torch.tensor([[0, 1, 0, 0]])
        >>> num_flops(one_pair, num_heads=1, width=8, value_width=4)
        24
        >>> num_flops(one_pair, num_heads=1, width=8, value_width=4, backward=True)
        64
    """
    products = 3 * width + 2 * value_width if backward else width + value_width
    return 2 * num_pairs(intervals) * num_heads * products


def num_bytes(
    intervals: Tensor,
    *,
    num_columns: int,
    num_heads: int,
    width: int,
    value_width: int,
    element_bytes: int,
    backward: bool = False,
) -> int:
    """Bytes of one pass that must be moved at least once: each row of a tensor read or written once.

    Forward reads q, k, v and the intervals and writes the output; backward reads q, k, v, the
    intervals and the output's gradient and writes three gradients (silu: it needs no output). Keys
    and values that no row attends count too, tables and offsets do not.

    Shapes: intervals int32[Tq,4]; Tk = `num_columns`, D = `width`, V = `value_width`.

    Example:
        >>> import torch
        >>> row = torch.tensor([[0, 1, 0, 0]]).int()
        >>> num_bytes(row, num_columns=1, num_heads=1, width=8, value_width=4, element_bytes=4)
        112
    """
    num_rows = intervals.shape[0]
    q, k = num_rows * width, num_columns * width
    v, output = num_columns * value_width, num_rows * value_width
    elements = 2 * (q + k + v) + output if backward else q + k + v + output
    return elements * num_heads * element_bytes + intervals.nbytes
