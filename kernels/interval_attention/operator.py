"""Interval attention as operators: their schema, and how arguments become theirs and come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernels.interval_attention.bias import Bias, PositionBias, TimeBias, edges_ms
from kernels.operators import Operation

_ARGUMENTS = (
    "Tensor q, Tensor k, Tensor v, Tensor q_offsets, Tensor kv_offsets, Tensor intervals, "
    "Tensor? position_bias, Tensor? q_positions, Tensor? time_bias, Tensor? edges_ms, "
    "Tensor? q_times_ms, Tensor? kv_times_ms, bool softmax, float scale, float divisor"
)


def result_shapes(*inputs: Any) -> tuple[Tensor, Tensor]:
    """Uninitialised tensors as a forward gives them.

    Shapes: the output [Tq,H,V] and, of softmax, each row's log of its sum [Tq,H] (of silu [0,H]), in
    at least 32 bits.
    """
    q, v, softmax = inputs[0], inputs[2], inputs[_NUM_TENSORS]
    rows, heads, _ = q.shape
    summed_in = torch.promote_types(q.dtype, torch.float32)
    log_sums = q.new_empty(rows if softmax else 0, heads, dtype=summed_in)
    return q.new_empty(rows, heads, v.shape[2]), log_sums


TRAINED = (0, 1, 2, 6, 8)
"""Where q, k, v and both tables are among the arguments."""
_NUM_TENSORS = 12
OPERATION = Operation(
    name="interval_attention",
    arguments=_ARGUMENTS,
    num_tensors=_NUM_TENSORS,
    trained=TRAINED,
    shapes=result_shapes,
    num_results=2,
    kept=(0, 1),
)


def define(
    namespace: str,
    forward: Callable[..., tuple[Tensor, Tensor]],
    backward: Callable[..., tuple[Tensor, ...]],
) -> None:
    """`Operation.define`: a forward gives what `result_shapes` does."""
    OPERATION.define(namespace, forward, backward)


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
