"""The reference as operators, for graphs: its groups of padded lengths depend on the data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.interval_attention import operator
from kernels.interval_attention.reference import reference

_NAMESPACE = "freshet_reference"


def attend(q: Tensor, k: Tensor, v: Tensor, **arguments: Any) -> Tensor:
    """`reference.reference`, as one operator where a graph is captured."""
    if torch.compiler.is_compiling():
        return operator.attend(_NAMESPACE, q, k, v, **arguments)
    return reference(q, k, v, **arguments)


def _forward(*inputs: Any) -> tuple[Tensor, Tensor]:
    output, sums = operator.result_shapes(*inputs)
    return output.copy_(_reference(*inputs)), sums.zero_()


def _backward(grad: Tensor, _: Tensor, __: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    trained = [at for at in operator.TRAINED if inputs[at] is not None]

    def attended(*leaves: Tensor) -> Tensor:
        given = dict(enumerate(inputs)) | dict(zip(trained, leaves, strict=True))
        return _reference(*given.values())

    # autograd.grad finds nothing here: an operator runs below autograd.
    gradients_of = torch.func.vjp(attended, *(inputs[at] for at in trained))[1]
    found = dict(zip(trained, gradients_of(grad), strict=True))
    absent = grad.new_empty(0)
    return tuple(found.get(at, absent) for at in operator.TRAINED)


def _reference(
    q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor, kv_offsets: Tensor, intervals: Tensor,
    position_bias: Tensor | None, q_positions: Tensor | None, time_bias: Tensor | None,
    _edges_ms: Tensor | None, q_times_ms: Tensor | None, kv_times_ms: Tensor | None,
    softmax: bool, scale: float, divisor: float,
) -> Tensor:  # fmt: skip
    bias = operator.bias_of(position_bias, q_positions, time_bias, q_times_ms, kv_times_ms)
    return reference(
        q, k, v, q_offsets=q_offsets, kv_offsets=kv_offsets, intervals=intervals,
        score="softmax" if softmax else "silu", scale=scale, divisor=divisor, bias=bias,
    )  # fmt: skip


operator.define(_NAMESPACE, _forward, _backward)
