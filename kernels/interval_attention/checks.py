"""What interval attention refuses, and how it says so."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ingest.runtime.errors import FreshetError

_MAX_ROWS = 2**31 - 1


def check_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Refuse q [Tq,H,D], k [Tk,H,D], v [Tk,H,V] that do not fit one another."""
    if not (q.dim() == k.dim() == v.dim() == 3):
        raise _misfit("shape", "Each must be [rows, heads, width]", q, k, v)
    if not (q.dtype == k.dtype == v.dtype) or not q.is_floating_point():
        raise _misfit("dtype", "All must have one floating dtype", q, k, v)
    if not q.device == k.device == v.device:
        raise _misfit("device", "All must be on one device", q, k, v)
    if q.shape[1:] != k.shape[1:] or k.shape[:2] != v.shape[:2]:
        raise _misfit("shape", "Heads, q/k width and k/v rows must agree", q, k, v)
    if max(q.shape[0], k.shape[0]) > _MAX_ROWS:
        raise _misfit("shape", f"Rows are counted in 32 bits, at most {_MAX_ROWS}", q, k, v)


def check_scoring(score: str, scale: float, divisor: float) -> None:
    """Refuse a score function or constants that cannot work."""
    if score not in ("silu", "softmax"):
        raise _refused("score", f"It is {score!r}, not silu or softmax.")
    if not -math.inf < scale < math.inf:
        raise _refused("scale", f"It is {scale}.")
    if not 0 < divisor < math.inf:
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


def checked_intervals(
    intervals: Tensor, q_offsets: Tensor, kv_offsets: Tensor, *, q: Tensor, k: Tensor
) -> Tensor:
    """Refuse offsets that do not span the rows and intervals outside their own sequence.

    On a GPU this waits for it once. A captured graph checks whenever it runs, for which it must use
    the result.
    """
    for name, offsets in (("q_offsets", q_offsets), ("kv_offsets", kv_offsets)):
        if offsets.dtype != torch.int64 or offsets.dim() != 1 or offsets.shape[0] < 1:
            raise _refused(name, f"They are {_described(offsets)}, not int64 [B+1].")
        if offsets.device != q.device:
            raise _refused(name, f"They are on {offsets.device}, q on {q.device}.")
    if q_offsets.shape != kv_offsets.shape:
        raise _refused(
            "kv_offsets", f"{kv_offsets.shape[0]} entries against {q_offsets.shape[0]} for q."
        )
    if intervals.dtype != torch.int32 or intervals.shape != (q.shape[0], 4):
        wanted = f"int32 ({q.shape[0]}, 4)"
        raise _refused("intervals", f"They are {_described(intervals)}, not {wanted}.")
    if intervals.device != q.device:
        raise _refused("intervals", f"They are on {intervals.device}, q on {q.device}.")
    if torch.compiler.is_compiling():
        checked: Tensor = _checked_values(intervals, q_offsets, kv_offsets, k.shape[0])
        return checked
    _check_values(intervals, q_offsets, kv_offsets, k.shape[0])
    return intervals


@torch.library.custom_op("freshet::checked_intervals", mutates_args=())
def _checked_values(
    intervals: Tensor, q_offsets: Tensor, kv_offsets: Tensor, num_columns: int
) -> Tensor:
    _check_values(intervals, q_offsets, kv_offsets, num_columns)
    return intervals.clone()


@_checked_values.register_fake
def _(intervals: Tensor, *_: object) -> Tensor:
    return torch.empty_like(intervals)


def _check_values(
    intervals: Tensor, q_offsets: Tensor, kv_offsets: Tensor, num_columns: int
) -> None:
    row = torch.arange(len(intervals), device=intervals.device)
    # Offsets may be anything yet, so nothing here may rely on them.
    ends = q_offsets[1:].contiguous()
    sequence = torch.bucketize(row, ends, right=True).clamp_(max=len(ends) - 1)
    columns = kv_offsets.diff()[sequence] if len(ends) else row
    a0, b0, a1, b1 = intervals.unbind(1)
    outside = ((intervals < 0) | (intervals > columns[:, None])).any(1)
    bad = outside | (torch.maximum(a0, a1) < torch.minimum(b0, b1))
    spans = ((q_offsets, len(intervals)), (kv_offsets, num_columns))
    wrong = [(x[0] != 0) | (x[-1] != end) | (x.diff() < 0).any() for x, end in spans]
    if not bool(torch.stack([*wrong, bad.any()]).any()):
        return
    for name, (offsets, end) in zip(("q_offsets", "kv_offsets"), spans, strict=True):
        if offsets[0] != 0 or offsets[-1] != end or bool((offsets.diff() < 0).any()):
            raise _refused(name, f"They must rise from 0 to {end}; seen {offsets.tolist()[:8]}.")
    at = int(bad.nonzero()[0, 0])
    raise _refused(
        "intervals",
        f"Row {at} has {intervals[at].tolist()} over {int(columns[at])} columns; they must "
        "be disjoint and inside.",
    )


def _described(x: Tensor) -> str:
    return f"{tuple(x.shape)} {x.dtype}"


def _misfit(argument: str, wanted: str, q: Tensor, k: Tensor, v: Tensor) -> FreshetError:
    seen = ", ".join(
        f"{name} {_described(x)} {x.device}" for name, x in zip("qkv", (q, k, v), strict=True)
    )
    return _refused(argument, f"{wanted}; seen: {seen}.")


def _refused(argument: str, detail: str) -> FreshetError:
    return FreshetError(f"interval attention refuses {argument}", detail=detail)
