"""Grouped linear as operators: their schema."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kernels.operators import Operation


def _result_shape(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[2])


OPERATION = Operation(
    name="grouped_linear",
    arguments="Tensor x, Tensor weight, Tensor? bias, Tensor order, Tensor offsets",
    num_tensors=5,
    trained=(0, 1, 2),
    shapes=_result_shape,
)
"""Shapes: x [T,I]; weight [G,I,O]; bias [G,O]; order int64[T] and offsets int64[G+1] of
`groups.sort_groups` -> [T,O]."""
