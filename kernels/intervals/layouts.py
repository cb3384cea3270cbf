"""Masks of sequences laid out in a system's own way: MTGR's parts, LONGER's newest first."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.intervals.rows import check_at_least, check_counts, joined, refused
from kernels.jagged import offsets_of, positions_of, sequence_of


def mtgr(lengths: Tensor, num_static: Tensor, num_candidates: Tensor, times_ms: Tensor) -> Tensor:
    """MTGR's dynamic mask over sequences [static; realtime; candidates].

    Static rows attend one another; a realtime row the static ones and realtime rows up to itself; a
    candidate the static rows, realtime rows strictly before its own time, and itself.

    Shapes: lengths, num_static, num_candidates int64[B], times_ms int64[T] (unread for static rows)
    -> int32[T,4].

    Raises:
        FreshetError: parts longer than their sequence, realtime rows out of time order.

    Example:
        >>> one, two = torch.tensor([1]), torch.tensor([2])
        >>> mtgr(torch.tensor([5]), one, two, torch.tensor([0, 10, 20, 15, 30])).tolist()
        [[0, 1, 0, 0], [0, 2, 0, 0], [0, 3, 0, 0], [0, 2, 3, 4], [0, 3, 4, 5]]
    """
    check_counts("lengths", lengths)
    check_counts("num_candidates", num_candidates, within=lengths)
    check_counts("num_static", num_static, within=lengths - num_candidates)
    index, sequence = positions_of(lengths), sequence_of(lengths)
    if times_ms.dtype != torch.int64 or times_ms.shape != index.shape:
        raise refused(
            "times_ms", f"They are {tuple(times_ms.shape)} {times_ms.dtype}, not int64 [T]."
        )
    static = num_static[sequence]
    is_candidate = index >= (lengths - num_candidates)[sequence]
    is_realtime = (index >= static) & ~is_candidate
    # One number that rises with the sequence and, in it, with time.
    distinct, rank = times_ms.unique(return_inverse=True)
    when = sequence * len(distinct) + rank
    realtime = when[is_realtime]
    if bool((realtime.diff() < 0).any()):
        raise refused("times_ms", "Realtime rows of a sequence must be in the order of time.")
    first = offsets_of(lengths - num_static - num_candidates)[sequence]
    seen = torch.where(is_candidate, torch.searchsorted(realtime, when) - first, index + 1 - static)
    zero = torch.zeros_like(index)
    own = torch.where(is_candidate, index, zero)
    return joined(zero, static + seen.clamp(min=0), own, torch.where(is_candidate, index + 1, zero))


def longer(lengths: Tensor, num_queries: Tensor, num_globals: int) -> Tensor:
    """LONGER's cross-causal mask over columns [globals; history, newest first].

    The queries are the first rows: globals attend everything; a history row itself and all older
    ones, never a global, so its keys and values do not depend on the candidate among the globals.

    Shapes: lengths, num_queries int64[B] -> int32[sum(num_queries),4].

    Raises:
        FreshetError: more queries than columns, a number below 0.

    Example:
        >>> longer(torch.tensor([4]), torch.tensor([3]), 1).tolist()
        [[0, 4, 0, 0], [1, 4, 0, 0], [2, 4, 0, 0]]
    """
    check_counts("lengths", lengths)
    check_counts("num_queries", num_queries, within=lengths)
    check_at_least("num_globals", num_globals, 0)
    index = positions_of(num_queries)
    zero = torch.zeros_like(index)
    start = torch.where(index < num_globals, zero, index)
    return joined(start, torch.repeat_interleave(lengths, num_queries), zero, zero)
