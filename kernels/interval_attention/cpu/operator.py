"""The compiled library as PyTorch operators that autograd, torch.compile and torch.export see through."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from kernels.interval_attention.bias import Bias, edges_ms
from kernels.interval_attention.cpu.build import built_library

# Places among the operator's arguments, which attention.cpp declares.
_POSITION_BIAS, _TIME_BIAS, _SOFTMAX = 6, 8, 12


def attend(
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
    """Attend with checked arguments; see `interval_attention` for shapes.

    Raises:
        FreshetError: the library is not built.
    """
    load()
    position, time = bias.position, bias.time
    output, _ = torch.ops.freshet_cpu.interval_attention(
        q, k, v, q_offsets, kv_offsets, intervals,
        position and position.table, position and position.q_positions,
        time and time.table, time and edges_ms(len(time.table)),
        time and time.q_times_ms, time and time.kv_times_ms,
        score == "softmax", scale, divisor,
    )  # fmt: skip
    return output


@cache
def load() -> None:
    """Load the library `make kernels` built and tell PyTorch about its operators; never compiles.

    Raises:
        FreshetError: the library is not built.
    """
    torch.ops.load_library(built_library())
    forward, backward = (
        "freshet_cpu::interval_attention",
        "freshet_cpu::interval_attention_backward",
    )
    torch.library.register_fake(forward, _forward_shapes)
    torch.library.register_fake(backward, _backward_shapes)
    torch.library.register_autograd(forward, _backward, setup_context=_keep)


def _forward_shapes(*inputs: Any) -> tuple[Tensor, Tensor]:
    q, v, softmax = inputs[0], inputs[2], inputs[_SOFTMAX]
    rows, heads, _ = q.shape
    return q.new_empty(rows, heads, v.shape[2]), q.new_empty(rows if softmax else 0, heads)


def _backward_shapes(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = inputs[3:]  # after the output's gradient, the output and its log sums
    q, k, v = inputs[:3]
    position, time = (
        q.new_empty(0) if inputs[at] is None else torch.empty_like(inputs[at])
        for at in (_POSITION_BIAS, _TIME_BIAS)
    )
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), position, time


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output, *inputs[:_SOFTMAX])
    ctx.constants = inputs[_SOFTMAX:]
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    found = torch.ops.freshet_cpu.interval_attention_backward(
        grad, *ctx.saved_tensors, *ctx.constants
    )
    grads: list[Tensor | None] = [None] * (_SOFTMAX + len(ctx.constants))
    for at, each in zip((0, 1, 2, _POSITION_BIAS, _TIME_BIAS), found, strict=True):
        grads[at] = each if ctx.needs_input_grad[at] else None
    return tuple(grads)
