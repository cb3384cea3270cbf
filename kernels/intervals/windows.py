"""Masks whose cost grows with the length and not its square: windows, semi-local, truncation."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.intervals.rows import check_at_least, joined, rows_of


def sliding_window(
    lengths: Tensor,
    window: int,
    *,
    num_targets: Tensor | None = None,
    num_contexts: int = 0,
    num_full_rows: int = 0,
) -> Tensor:
    """A row attends itself and the `window` rows before it (HSTU's max_attn_len).

    A target attends the last `window` history rows and itself, a context all but targets. All
    contexts together count as one row of a window. The last `num_full_rows` history rows, and
    then targets too, attend the whole history before them (min_full_attn_seq_len).

    Shapes: lengths, num_targets int64[B] -> int32[T,4]; sequences are [contexts; history; targets].

    Raises:
        FreshetError: a number below 0, more targets than rows.

    Example:
        >>> sliding_window(torch.tensor([4]), 1).tolist()
        [[0, 1, 0, 0], [0, 2, 0, 0], [1, 3, 0, 0], [2, 4, 0, 0]]
    """
    check_at_least("window", window, 0)
    check_at_least("num_full_rows", num_full_rows, 0)
    rows = rows_of(lengths, num_targets, num_contexts)
    end = rows.index.minimum(rows.history)
    in_reach = end <= window + max(num_contexts - 1, 0)
    is_full = (num_full_rows > 0) & (end >= rows.history - num_full_rows)
    zero = torch.zeros_like(end)
    start = torch.where(in_reach | is_full, zero, end - window)
    return rows.targets_attending(rows.attending(start, end + 1, zero, zero), start)


def semi_local(
    lengths: Tensor,
    num_local: int,
    num_global: int,
    *,
    num_targets: Tensor | None = None,
    num_contexts: int = 0,
) -> Tensor:
    """A row attends the last `num_local` rows up to itself and the first `num_global`, up to itself.

    ULTRA-HSTU's semi-local attention, K1 = `num_local`, K2 = `num_global` (contexts count into K2).
    A target attends the whole history and itself, a context all but targets.

    Shapes: lengths, num_targets int64[B] -> int32[T,4]; sequences are [contexts; history; targets].

    Raises:
        FreshetError: `num_local` below 1, another number below 0, more targets than rows.

    Example:
        >>> semi_local(torch.tensor([4]), 2, 1).tolist()
        [[0, 1, 0, 0], [0, 1, 1, 2], [0, 1, 1, 3], [0, 1, 2, 4]]
    """
    check_at_least("num_local", num_local, 1)
    check_at_least("num_global", num_global, 0)
    rows = rows_of(lengths, num_targets, num_contexts)
    num_global = max(num_global, num_contexts)
    end = rows.index + 1
    local = (end - num_local).clamp(min=num_global)
    zero = torch.zeros_like(end)
    return rows.targets_attending(rows.attending(zero, end.clamp(max=num_global), local, end))


def truncated(lengths: Tensor, num_latest: int, num_contexts: int = 0) -> Tensor:
    """A row attends all contexts and the last `num_latest` history rows up to itself; contexts each other.

    Attention truncation (ULTRA-HSTU) as a window of each row instead of a cut of the sequence: what
    a row attends does not change when rows are appended, so its keys and values stay valid.
    There is no form with targets: contexts, window and itself would be three intervals.

    Shapes: lengths int64[B] -> int32[T,4]; sequences are [contexts; history].

    Raises:
        FreshetError: `num_latest` below 1, `num_contexts` below 0.

    Example:
        >>> truncated(torch.tensor([5]), 2, 1).tolist()
        [[0, 1, 0, 0], [0, 1, 1, 2], [0, 1, 1, 3], [0, 1, 2, 4], [0, 1, 3, 5]]
    """
    check_at_least("num_latest", num_latest, 1)
    rows = rows_of(lengths, num_contexts=num_contexts)
    end = rows.index + 1
    latest = (end - num_latest).clamp(min=num_contexts)
    return joined(torch.zeros_like(end), rows.history.clamp(max=num_contexts), latest, end)


def bidirectional_window(lengths: Tensor, window: int) -> Tensor:
    """A row attends itself and `window` rows on either side (KunLun's sliding window attention).

    Shapes: lengths int64[B] -> int32[T,4].

    Raises:
        FreshetError: `window` below 0.

    Example:
        >>> bidirectional_window(torch.tensor([3]), 1).tolist()
        [[0, 2, 0, 0], [0, 3, 0, 0], [1, 3, 0, 0]]
    """
    check_at_least("window", window, 0)
    rows = rows_of(lengths)
    zero = torch.zeros_like(rows.index)
    start = (rows.index - window).clamp(min=0)
    return joined(start, rows.history.minimum(rows.index + window + 1), zero, zero)
