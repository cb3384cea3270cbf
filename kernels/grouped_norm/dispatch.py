"""Which backend normalises rows, for grouped norm and for norm times gate alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import Backend, Backends
from kernels.grouped_norm.operator import OPERATION
from kernels.grouped_norm.reference import reference
from kernels.library import load

MAX_TRITON_WIDTH = 8192

OPERATION.declare("freshet_cpu")


def _norm_cpu(x: Tensor, *rest: Any) -> Tensor:
    load()
    out: Tensor = torch.ops.freshet_cpu.grouped_norm(x.contiguous(), *rest)[0]
    return out


def _norm_triton(x: Tensor, *rest: Any) -> Tensor:
    # Imported here: Triton takes a second, and a machine without a GPU has no use for it.
    from kernels.grouped_norm.triton import norm

    return norm(x, *rest)


def backends(operation: str) -> Backends:
    """The table, under the name of the operation that asks."""
    return Backends(
        operation=operation,
        table={
            "cpu": Backend.cpu(_norm_cpu),
            "triton": Backend.triton(_norm_triton, max_width=MAX_TRITON_WIDTH),
            "reference": Backend.reference(reference),
        },
    )
