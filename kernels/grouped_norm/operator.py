"""Grouped norm as operators, one pair for each backend, that autograd and compilers see through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ARGUMENTS = (
    "Tensor x, Tensor? gate, Tensor weight, Tensor? bias, Tensor? order, Tensor? offsets, "
    "bool rms, float epsilon"
)
_NUM_TENSORS = 6


def register(namespace: str) -> torch.library.Library:
    """Declare `grouped_norm` and its backward in a namespace; who calls it implements them.

    Shapes: x, gate [T,H,V]; weight, bias [G,H*V]; order int64[T] and offsets int64[G+1] of
    `groups.sort_groups`, or None for one group -> out [T,H,V]; mean, rstd [T].
    """
    library = torch.library.Library(namespace, "FRAGMENT")
    forward, backward = f"{namespace}::grouped_norm", f"{namespace}::grouped_norm_backward"
    library.define(f"grouped_norm({_ARGUMENTS}) -> (Tensor, Tensor, Tensor)")
    library.define(
        f"grouped_norm_backward(Tensor out_gradient, Tensor mean, Tensor rstd, {_ARGUMENTS}) "
        "-> (Tensor, Tensor, Tensor, Tensor)"
    )
    torch.library.register_fake(forward, _forward_shapes)
    torch.library.register_fake(backward, _backward_shapes)
    operator = getattr(torch.ops, namespace).grouped_norm_backward

    def differentiate(ctx: Any, out_gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        found = operator(out_gradient, *ctx.saved_tensors, *ctx.constants)
        grads = [
            each if needed else None
            for each, needed in zip(found, ctx.needs_input_grad, strict=False)
        ]
        return (*grads, None, None, None, None)

    torch.library.register_autograd(forward, differentiate, setup_context=_keep)
    return library


def _forward_shapes(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    x = inputs[0]
    # Means are kept in at least 32 bits.
    kept_in = torch.promote_types(x.dtype, torch.float32)
    statistic = x.new_empty(x.shape[0], dtype=kept_in)
    return x.new_empty(x.shape), statistic, torch.empty_like(statistic)


def _backward_shapes(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, gate, weight, bias = inputs[3:7]
    return (
        x.new_empty(x.shape),
        x.new_empty(0) if gate is None else x.new_empty(x.shape),
        weight.new_empty(weight.shape),
        x.new_empty(0) if bias is None else weight.new_empty(weight.shape),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output[1:], *inputs[:_NUM_TENSORS])
    ctx.constants = inputs[_NUM_TENSORS:]
    ctx.mark_non_differentiable(*output[1:])
