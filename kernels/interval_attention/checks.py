"""What interval attention refuses, and how it says so."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ingest.runtime.errors import FreshetError


def check_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Refuse q [Tq,H,D], k [Tk,H,D], v [Tk,H,V] that do not fit one another."""
    seen = ", ".join(
        f"{name} {tuple(x.shape)} {x.dtype} {x.device}"
        for name, x in zip("qkv", (q, k, v), strict=True)
    )
    if not all(x.dim() == 3 for x in (q, k, v)):
        raise _refused("shape", f"Each must be [rows, heads, width]; seen: {seen}.")
    if not (q.dtype == k.dtype == v.dtype) or not q.is_floating_point():
        raise _refused("dtype", f"All must have one floating dtype; seen: {seen}.")
    if not q.device == k.device == v.device:
        raise _refused("device", f"All must be on one device; seen: {seen}.")
    if q.shape[1:] != k.shape[1:] or k.shape[:2] != v.shape[:2]:
        raise _refused("shape", f"Heads, q/k width and k/v rows must agree; seen: {seen}.")


def check_scoring(score: str, scale: float, divisor: float) -> None:
    """Refuse a score function or constants that cannot work."""
    if score not in ("silu", "softmax"):
        raise _refused("score", f"It is {score!r}, not silu or softmax.")
    if not math.isfinite(scale):
        raise _refused("scale", f"It is {scale}.")
    if not (math.isfinite(divisor) and divisor > 0):
        raise _refused("divisor", f"It is {divisor}, not a finite number above 0.")
    if score == "softmax" and divisor != 1.0:
        raise _refused("divisor", f"It is {divisor}, but softmax has none.")


def check_column(name: str, x: Tensor, like: Tensor) -> None:
    """Refuse a per-row int64 column that does not lie along the rows of `like`."""
    if x.dtype != torch.int64 or x.shape != like.shape[:1] or x.device != like.device:
        raise _refused(
            name,
            f"It is {tuple(x.shape)} {x.dtype} {x.device}, not int64 of {like.shape[0]} rows on "
            f"{like.device}.",
        )


def check_intervals(
    intervals: Tensor, q_offsets: Tensor, kv_offsets: Tensor, num_rows: int, num_columns: int
) -> None:
    """Refuse offsets that do not span the rows and intervals outside their own sequence."""
    _check_offsets("q_offsets", q_offsets, num_rows)
    _check_offsets("kv_offsets", kv_offsets, num_columns)
    if len(q_offsets) != len(kv_offsets):
        raise _refused("kv_offsets", f"{len(kv_offsets)} entries against {len(q_offsets)} for q.")
    if intervals.dtype != torch.int32 or intervals.shape != (num_rows, 4):
        raise _refused(
            "intervals",
            f"They are {tuple(intervals.shape)} {intervals.dtype}, not int32 ({num_rows}, 4).",
        )
    columns = torch.repeat_interleave(kv_offsets.diff(), q_offsets.diff())
    a0, b0, a1, b1 = intervals.long().unbind(1)
    outside = (intervals < 0).any(1) | (intervals.long() > columns[:, None]).any(1)
    overlap = (a1 < b0) & (a0 < b0) & (a1 < b1) & (a0 < b1)
    if bool((bad := outside | overlap).any()):
        row = int(bad.nonzero()[0, 0])
        raise _refused(
            "intervals",
            f"Row {row} has {intervals[row].tolist()} over {int(columns[row])} columns; they must "
            "be disjoint and inside.",
        )


def _check_offsets(name: str, offsets: Tensor, num_rows: int) -> None:
    if offsets.dtype != torch.int64 or offsets.dim() != 1 or len(offsets) < 1:
        raise _refused(name, f"They are {tuple(offsets.shape)} {offsets.dtype}, not int64 [B+1].")
    if int(offsets[0]) != 0 or int(offsets[-1]) != num_rows or bool((offsets.diff() < 0).any()):
        raise _refused(name, f"They must rise from 0 to {num_rows}; seen {offsets.tolist()[:8]}.")


def _refused(argument: str, detail: str) -> FreshetError:
    return FreshetError(f"interval attention refuses {argument}", detail=detail)
