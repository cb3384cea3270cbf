"""Attention masks: per row the two column intervals [a0, b0) and [a1, b1) it attends, and their cost.

A builder takes lengths int64[B] on any device and gives int32[T,4] of (a0, b0, a1, b1), counted from
the first column of the row's own sequence, disjoint and inside it; an empty interval is [0, 0). Bad
arguments are refused by name.
"""

from __future__ import annotations

from kernels.intervals.cost import num_bytes, num_flops, num_pairs
from kernels.intervals.layouts import longer, mtgr
from kernels.intervals.targets import candidates, causal, full, target_aware
from kernels.intervals.windows import bidirectional_window, semi_local, sliding_window, truncated

__all__ = [
    "bidirectional_window",
    "candidates",
    "causal",
    "full",
    "longer",
    "mtgr",
    "num_bytes",
    "num_flops",
    "num_pairs",
    "semi_local",
    "sliding_window",
    "target_aware",
    "truncated",
]
