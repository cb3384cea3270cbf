"""Which backend computes a grouped linear layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kernels.dispatch import Backend, Backends
from kernels.grouped_linear.cpu import linear as _linear_cpu
from kernels.grouped_linear.reference import reference


def _linear_triton(*args: Any) -> Tensor:
    # Imported here: Triton takes a second, and a machine without a GPU has no use for it.
    from kernels.grouped_linear.triton import linear

    return linear(*args)


BACKENDS = Backends(
    operation="grouped linear",
    table={
        "cpu": Backend.cpu(_linear_cpu),
        "triton": Backend.triton(_linear_triton),
        "reference": Backend.reference(reference),
    },
)
"""What `grouped_linear` chooses from."""
