"""Tables of backends: which implementation computes an operation, and what each can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ingest.runtime.errors import FreshetError

AUTO = "auto"
_NO_LIMIT = 1 << 31
_HALVES = frozenset({torch.bfloat16, torch.float16})


@dataclass(frozen=True, kw_only=True)
class Wish:
    """The features a call needs; `width` is its widest row."""

    device: str
    dtype: torch.dtype
    width: int

    @classmethod
    def of(cls, x: Tensor, width: int) -> Wish:
        """What a call on tensors like `x` needs."""
        return cls(device=x.device.type, dtype=x.dtype, width=width)


@dataclass(frozen=True, kw_only=True)
class Backend:
    """An implementation and its features; an empty set of devices or dtypes means any.

    `automatic` backends are what "auto" chooses from, in the order of the table.
    """

    run: Callable[..., Tensor]
    devices: frozenset[str] = frozenset()
    dtypes: frozenset[torch.dtype] = frozenset()
    max_width: int = _NO_LIMIT
    automatic: bool = True

    @classmethod
    def cpu(cls, run: Callable[..., Tensor], max_width: int = _NO_LIMIT) -> Backend:
        """What computes half precision in float32, and may compute in float64."""
        dtypes = _HALVES | {torch.float32, torch.float64}
        return cls(run=run, devices=frozenset({"cpu"}), dtypes=dtypes, max_width=max_width)

    @classmethod
    def triton(cls, run: Callable[..., Tensor], max_width: int = _NO_LIMIT) -> Backend:
        """What sums in float32 at most."""
        dtypes = _HALVES | {torch.float32}
        return cls(run=run, devices=frozenset({"cuda"}), dtypes=dtypes, max_width=max_width)

    @classmethod
    def reference(cls, run: Callable[..., Tensor]) -> Backend:
        """What can do anything, and is only ever taken by name: nobody is slow without knowing."""
        return cls(run=run, automatic=False)

    def lacks(self, wish: Wish) -> list[str]:
        """What of a wish it cannot do, in words; empty when it can do all."""
        found = []
        if self.devices and wish.device not in self.devices:
            found.append(f"device {wish.device} (it has {', '.join(sorted(self.devices))})")
        if self.dtypes and wish.dtype not in self.dtypes:
            found.append(f"{wish.dtype} (it has {', '.join(sorted(map(str, self.dtypes)))})")
        if wish.width > self.max_width:
            found.append(f"width {wish.width} (it has up to {self.max_width})")
        return found


@dataclass(frozen=True, kw_only=True)
class Backends:
    """The table of one operation, best first; `operation` is its name in messages."""

    operation: str
    table: dict[str, Backend]

    def check(self, name: str) -> None:
        """Refuse a name that is neither "auto" nor in the table.

        Raises:
            FreshetError: no such backend; the message lists those there are.
        """
        if name != AUTO and name not in self.table:
            raise FreshetError(
                f"{self.operation} refuses backend",
                detail=f"It is {name!r}, not one of {[AUTO, *self.table]}.",
            )

    def choose(self, name: str, wish: Wish) -> Backend:
        """The backend of a name, or for "auto" the first automatic one that can do all.

        Raises:
            FreshetError: no such backend, or it cannot do this; the message names those that can.
        """
        self.check(name)
        automatic = [each for each, backend in self.table.items() if backend.automatic]
        named = automatic if name == AUTO else [name]
        for each in named:
            if not self.table[each].lacks(wish):
                return self.table[each]
        lacking = "; ".join(
            f"{each} lacks {', '.join(self.table[each].lacks(wish))}" for each in named
        )
        able = [each for each, backend in self.table.items() if not backend.lacks(wish)]
        raise FreshetError(
            f"{self.operation} refuses backend {name} for these tensors",
            detail=f"{lacking}.",
            hint=f"backends that can: {', '.join(able)}",
        )
