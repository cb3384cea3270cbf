"""Grouped linear as operators, one pair for each backend, that autograd and compilers see through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ARGUMENTS = "Tensor x, Tensor weight, Tensor? bias, Tensor order, Tensor offsets"


def register(namespace: str) -> torch.library.Library:
    """Declare `grouped_linear` and its backward in a namespace; who calls it implements them.

    Shapes: x [T,I]; weight [G,I,O]; bias [G,O]; order int64[T] and offsets int64[G+1] of
    `groups.sort_groups` -> [T,O].
    """
    library = torch.library.Library(namespace, "FRAGMENT")
    forward, backward = f"{namespace}::grouped_linear", f"{namespace}::grouped_linear_backward"
    library.define(f"grouped_linear({_ARGUMENTS}) -> Tensor")
    library.define(
        f"grouped_linear_backward(Tensor out_gradient, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor)"
    )
    torch.library.register_fake(forward, _forward_shape)
    torch.library.register_fake(backward, _backward_shapes)
    operator = getattr(torch.ops, namespace).grouped_linear_backward

    def differentiate(ctx: Any, out_gradient: Tensor) -> tuple[Tensor | None, ...]:
        found = operator(out_gradient, *ctx.saved_tensors)
        grads = [
            each if needed else None
            for each, needed in zip(found, ctx.needs_input_grad, strict=False)
        ]
        return (*grads, None, None)

    torch.library.register_autograd(forward, differentiate, setup_context=_keep)
    return library


def _forward_shape(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[2])


def _backward_shapes(
    _: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *__: Any
) -> tuple[Tensor, Tensor, Tensor]:
    of_bias = x.new_empty(0) if bias is None else weight.new_empty(bias.shape)
    return x.new_empty(x.shape), weight.new_empty(weight.shape), of_bias


def _keep(ctx: Any, inputs: tuple[Any, ...], **_: Any) -> None:
    ctx.save_for_backward(*inputs)
