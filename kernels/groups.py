"""Rows sorted by the group each belongs to."""

from __future__ import annotations

import torch
from torch import Tensor

from ingest.runtime.errors import FreshetError


def sort_groups(group: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """The rows in the order of their groups, stably, and where each group's begin.

    Shapes: group int64[T] in 0..G-1 -> order int64[T], offsets int64[G+1].

    Raises:
        FreshetError: a group outside 0..G-1.

    Example:
        >>> sort_groups(torch.tensor([2, 0, 2]), 3)
        (tensor([1, 0, 2]), tensor([0, 1, 1, 3]))
    """
    if torch.compiler.is_compiling():
        found: tuple[Tensor, Tensor] = torch.ops.freshet.sort_groups(group, num_groups)
        return found
    return _sort(group, num_groups)


def check_group(group: Tensor, x: Tensor, operation: str) -> None:
    """Refuse a group that is not int64 along the rows of `x`.

    Raises:
        FreshetError: another dtype, shape or device.
    """
    if group.dtype != torch.int64 or group.shape != x.shape[:1] or group.device != x.device:
        raise FreshetError(
            f"{operation} refuses group",
            detail=f"It is {tuple(group.shape)} {group.dtype} {group.device}, not int64 of "
            f"{x.shape[0]} rows on {x.device}.",
        )


def _sort(group: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    in_order, order = group.sort(stable=True)
    edges = torch.arange(num_groups + 1, device=group.device)
    offsets = torch.searchsorted(in_order, edges)
    if len(group) and not 0 <= int(in_order[0]) <= int(in_order[-1]) < num_groups:
        raise FreshetError(
            "rows refuse group",
            detail=f"It spans {int(in_order[0])}..{int(in_order[-1])} of {num_groups} groups.",
        )
    return order, offsets


# The check is of values, so a compiler must neither trace nor drop it: it is the operator that sorts.
_operator = torch.library.custom_op("freshet::sort_groups", _sort, mutates_args=())


@_operator.register_fake
def _(group: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(group), group.new_empty(num_groups + 1)
