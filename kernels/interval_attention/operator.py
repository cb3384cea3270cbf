"""Interval attention as operators, which autograd, torch.compile and torch.export see through.

Every backend is a pair of operators, `interval_attention` and `interval_attention_backward`, in a
namespace of its own, with one schema; here is all that does not depend on the backend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ingest.runtime.errors import FreshetError
from kernels.interval_attention.bias import Bias, PositionBias, TimeBias, edges_ms

_ARGUMENTS = (
    "Tensor q, Tensor k, Tensor v, Tensor q_offsets, Tensor kv_offsets, Tensor intervals, "
    "Tensor? position_bias, Tensor? q_positions, Tensor? time_bias, Tensor? edges_ms, "
    "Tensor? q_times_ms, Tensor? kv_times_ms, bool softmax, float scale, float divisor"
)
# Places among these arguments.
_POSITION_BIAS, _TIME_BIAS, _SOFTMAX = 6, 8, 12


def attend(
    namespace: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_offsets: Tensor,
    kv_offsets: Tensor,
    intervals: Tensor,
    score: str,
    scale: float,
    divisor: float,
    bias: Bias,
) -> Tensor:
    """Call the operator of a namespace with checked arguments; see `interval_attention` for shapes."""
    position, time = bias.position, bias.time
    output, _ = getattr(torch.ops, namespace).interval_attention(
        q, k, v, q_offsets, kv_offsets, intervals,
        None if position is None else position.table,
        None if position is None else position.q_positions,
        None if time is None else time.table,
        None if time is None else edges_ms(len(time.table)),
        None if time is None else time.q_times_ms,
        None if time is None else time.kv_times_ms,
        score == "softmax", scale, divisor,
    )  # fmt: skip
    result: Tensor = output
    return result


def bias_of(
    position_bias: Tensor | None,
    q_positions: Tensor | None,
    time_bias: Tensor | None,
    q_times_ms: Tensor | None,
    kv_times_ms: Tensor | None,
) -> Bias:
    """The biases among an operator's arguments."""
    position, time = None, None
    if position_bias is not None and q_positions is not None:
        position = PositionBias(table=position_bias, q_positions=q_positions)
    if time_bias is not None and q_times_ms is not None and kv_times_ms is not None:
        time = TimeBias(table=time_bias, q_times_ms=q_times_ms, kv_times_ms=kv_times_ms)
    return Bias(position=position, time=time)


def define(
    namespace: str,
    forward: Callable[..., tuple[Tensor, Tensor]],
    backward: Callable[..., tuple[Tensor, ...]],
) -> None:
    """Make operators of two Python functions, and register what goes with them.

    `forward` gives the output [Tq,H,V] and what `backward` may need of a softmax, float32[Tq,H]
    (float64 for such q; of silu [0,H]). `backward` takes the output's gradient, both of these and
    the arguments; it gives the gradients of q, k, v and both tables, empty for an absent table.
    """
    name = f"{namespace}::interval_attention"
    torch.library.define(name, f"({_ARGUMENTS}) -> (Tensor, Tensor)")
    torch.library.define(
        f"{name}_backward",
        f"(Tensor grad, Tensor output, Tensor log_sums, {_ARGUMENTS}) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    )
    torch.library.impl(name, "CompositeExplicitAutograd", forward)
    torch.library.impl(f"{name}_backward", "CompositeExplicitAutograd", backward)
    register(namespace)


def register(namespace: str) -> None:
    """Tell PyTorch the shapes and gradients of a namespace's operators."""

    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        found = getattr(torch.ops, namespace).interval_attention_backward(
            grad, *ctx.saved_tensors, *ctx.constants
        )
        grads: list[Tensor | None] = [None] * (_SOFTMAX + len(ctx.constants))
        for at, each in zip((0, 1, 2, _POSITION_BIAS, _TIME_BIAS), found, strict=True):
            grads[at] = each if ctx.needs_input_grad[at] else None
        return tuple(grads)

    name = f"{namespace}::interval_attention"
    torch.library.register_fake(name, forward_shapes)
    torch.library.register_fake(f"{name}_backward", _backward_shapes)
    torch.library.register_autograd(name, backward, setup_context=_keep)
    torch.library.register_autograd(f"{name}_backward", _no_second_derivative)


def forward_shapes(*inputs: Any) -> tuple[Tensor, Tensor]:
    """Uninitialised tensors as `forward` gives them."""
    q, v, softmax = inputs[0], inputs[2], inputs[_SOFTMAX]
    rows, heads, _ = q.shape
    sums = torch.float64 if q.dtype == torch.float64 else torch.float32
    log_sums = q.new_empty(rows if softmax else 0, heads, dtype=sums)
    return q.new_empty(rows, heads, v.shape[2]), log_sums


def _backward_shapes(*inputs: Any) -> tuple[Tensor, ...]:
    inputs = inputs[3:]  # after the output's gradient, the output and its log sums
    q, k, v = inputs[:3]
    position, time = (
        q.new_empty(0) if inputs[at] is None else q.new_empty(inputs[at].shape)
        for at in (_POSITION_BIAS, _TIME_BIAS)
    )
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), position, time


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output, *inputs[:_SOFTMAX])
    ctx.constants = inputs[_SOFTMAX:]
    ctx.mark_non_differentiable(output[1])


def _no_second_derivative(*_: Any) -> None:
    raise FreshetError(
        "interval attention has no second derivative",
        hint='backend="reference" has one, outside of torch.compile',
    )
