"""Which backend computes interval attention: a table of backends and what each can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ingest.runtime.errors import FreshetError
from kernels.interval_attention.compiled_reference import attend as attend_reference
from kernels.interval_attention.cpu.operator import attend as attend_cpu

AUTO = "auto"
_NO_LIMIT = 1 << 31


@dataclass(frozen=True, kw_only=True)
class Backend:
    """An implementation and its features; an empty set of devices or dtypes means any.

    `automatic` backends are what "auto" chooses from, in the order of the table.
    """

    attend: Callable[..., Tensor]
    devices: frozenset[str] = frozenset()
    dtypes: frozenset[torch.dtype] = frozenset()
    scores: frozenset[str] = frozenset({"silu", "softmax"})
    max_width: int = _NO_LIMIT
    automatic: bool = True

    def lacks(self, wish: Wish) -> list[str]:
        """What of a wish it cannot do, in words; empty when it can do all."""
        found = []
        if self.devices and wish.device not in self.devices:
            found.append(f"device {wish.device} (it has {', '.join(sorted(self.devices))})")
        if self.dtypes and wish.dtype not in self.dtypes:
            found.append(f"{wish.dtype} (it has {', '.join(sorted(map(str, self.dtypes)))})")
        if wish.score not in self.scores:
            found.append(f"score {wish.score} (it has {', '.join(sorted(self.scores))})")
        if wish.width > self.max_width:
            found.append(f"width {wish.width} (it has up to {self.max_width})")
        return found


@dataclass(frozen=True, kw_only=True)
class Wish:
    """The features a call needs; `width` is the larger of q/k's and v's."""

    device: str
    dtype: torch.dtype
    score: str
    width: int

    @classmethod
    def of(cls, q: Tensor, v: Tensor, score: str) -> Wish:
        """What a call with q [Tq,H,D] and v [Tk,H,V] needs."""
        width = max(q.shape[2], v.shape[2])
        return cls(device=q.device.type, dtype=q.dtype, score=score, width=width)


def _attend_triton(*args: Any, **named: Any) -> Tensor:
    # Imported here: Triton takes a second, and a machine without a GPU has no use for it.
    from kernels.interval_attention.triton import attend

    return attend(*args, **named)


# "auto" never takes the reference on a processor whose kernel it could have: a kernel that is not
# built is an error there, so that nobody is slow without knowing.
BACKENDS: dict[str, Backend] = {
    "cpu": Backend(
        attend=attend_cpu,
        devices=frozenset({"cpu"}),
        dtypes=frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16}),
        max_width=256,
    ),
    "triton": Backend(
        attend=_attend_triton,
        devices=frozenset({"cuda"}),
        dtypes=frozenset({torch.float32, torch.bfloat16, torch.float16}),
        max_width=256,
    ),
    "reference": Backend(attend=attend_reference, automatic=False),
}


def choose(name: str, wish: Wish) -> Backend:
    """The backend of a name, or for "auto" the first automatic one that can do all.

    Raises:
        FreshetError: no such backend, or it cannot do this; the message names those that can.
    """
    check_backend(name)
    able = [each for each, backend in BACKENDS.items() if not backend.lacks(wish)]
    named = [name] if name != AUTO else [each for each in BACKENDS if BACKENDS[each].automatic]
    for each in named:
        if each in able:
            return BACKENDS[each]
    lacking = "; ".join(f"{each} lacks {', '.join(BACKENDS[each].lacks(wish))}" for each in named)
    raise FreshetError(
        f"interval attention refuses backend {name} for these tensors",
        detail=f"{lacking}.",
        hint=f"backends that can: {', '.join(able)}",
    )


def check_backend(name: str) -> None:
    """Refuse a name that is neither "auto" nor in the table.

    Raises:
        FreshetError: no such backend; the message lists those there are.
    """
    if name != AUTO and name not in BACKENDS:
        raise FreshetError(
            "interval attention refuses backend",
            detail=f"It is {name!r}, not one of {[AUTO, *BACKENDS]}.",
        )
