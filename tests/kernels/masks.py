"""Every mask there is a builder of, as a function of the lengths alone, for tests to iterate over."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kernels import intervals
from kernels.jagged import positions_of

Mask = Callable[[Tensor], Tensor]


def num_targets(lengths: Tensor) -> Tensor:
    """Up to 7 targets, so that short sequences have nothing else."""
    return lengths.clamp(max=7)


def mtgr(lengths: Tensor) -> Tensor:
    """2 static rows, up to 5 candidates whose times lie among those of the realtime rows."""
    num_candidates = lengths.clamp(max=5)
    num_static = (lengths - num_candidates).clamp(max=2)
    row = positions_of(lengths)
    is_candidate = row >= torch.repeat_interleave(lengths - num_candidates, lengths)
    times_ms = torch.where(is_candidate, 7 * row % 40, row)
    return intervals.mtgr(lengths, num_static, num_candidates, times_ms)


MASKS: dict[str, Mask] = {
    "causal": intervals.causal,
    "full": intervals.full,
    "target_aware": lambda n: intervals.target_aware(n, num_targets(n)),
    "target_aware_with_contexts": lambda n: intervals.target_aware(n, num_targets(n), 3),
    "sliding_window": lambda n: intervals.sliding_window(n, 17),
    "sliding_window_official": lambda n: intervals.sliding_window(
        n, 17, num_targets=num_targets(n), num_contexts=3, num_full_rows=5
    ),
    "semi_local": lambda n: intervals.semi_local(n, 21, 9),
    "semi_local_with_targets": lambda n: intervals.semi_local(
        n, 21, 9, num_targets=num_targets(n), num_contexts=3
    ),
    "mtgr": mtgr,
    "longer": lambda n: intervals.longer(n, n, 4),
    "bidirectional_window": lambda n: intervals.bidirectional_window(n, 5),
    "truncated": lambda n: intervals.truncated(n, 20, 3),
}
"""int64[B] -> int32[T,4]; queries and columns are the same rows."""
