"""Which backend computes interval attention; a new one is a row whose function takes what `reference` takes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kernels.dispatch import Backend, Backends
from kernels.interval_attention import operator
from kernels.interval_attention.compiled_reference import attend as _attend_reference
from kernels.library import load

_MAX_WIDTH = 256

operator.OPERATION.declare("freshet_cpu")


def _attend_cpu(*args: Any, **named: Any) -> Tensor:
    load()
    return operator.attend("freshet_cpu", *args, **named)


def _attend_triton(*args: Any, **named: Any) -> Tensor:
    # Imported here: Triton takes a second, and a machine without a GPU has no use for it.
    from kernels.interval_attention.triton import attend

    return attend(*args, **named)


BACKENDS = Backends(
    operation="interval attention",
    table={
        "cpu": Backend.cpu(_attend_cpu, max_width=_MAX_WIDTH),
        "triton": Backend.triton(_attend_triton, max_width=_MAX_WIDTH),
        "reference": Backend.reference(_attend_reference),
    },
)
"""What `interval_attention` chooses from."""
