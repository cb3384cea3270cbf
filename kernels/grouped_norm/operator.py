"""Grouped norm as operators: their schema."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.operators import Operation


def _result_shapes(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    x = inputs[0]
    # Means are kept in at least 32 bits.
    statistic = x.new_empty(x.shape[0], dtype=torch.promote_types(x.dtype, torch.float32))
    return x.new_empty(x.shape), statistic, torch.empty_like(statistic)


OPERATION = Operation(
    name="grouped_norm",
    arguments=(
        "Tensor x, Tensor? gate, Tensor weight, Tensor? bias, Tensor? order, Tensor? offsets, "
        "bool rms, float epsilon"
    ),
    num_tensors=6,
    trained=(0, 1, 2, 3),
    shapes=_result_shapes,
    num_results=3,
    kept=(1, 2),
)
"""Shapes: x, gate [T,H,V]; weight, bias [G,H*V]; order int64[T] and offsets int64[G+1] of
`groups.sort_groups`, or None for one group -> out [T,H,V]; mean, rstd [T]."""
