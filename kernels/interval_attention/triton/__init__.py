"""Interval attention in Triton: differentiable, deterministic, tiles outside the intervals skipped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from triton import knobs

from ingest.runtime.errors import FreshetError
from kernels.interval_attention.bias import Bias
from kernels.interval_attention.triton import launch
from kernels.interval_attention.triton.joined import JoinedBias, join
from kernels.interval_attention.triton.launch import Call

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MAX_WIDTH = 256
_MAX_HEADS = 65_535
# Read where the kernels were made: afterwards it no longer tells what they are.
_INTERPRETED = bool(knobs.runtime.interpret)


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
    """`reference.reference` by Triton kernels, on a GPU (or anywhere under TRITON_INTERPRET=1).

    Arguments are checked as `interval_attention` does it; this adds what kernels need. q, k, v may be
    views: only their last dimension has to be dense. Sums are float32 whatever the type.

    Shapes: q [Tq,H,D], k [Tk,H,D], v [Tk,H,V] -> [Tq,H,V], D and V at most 256.

    Raises:
        FreshetError: a device, dtype, width or stride there is no kernel for.
    """
    joined = join(bias, q, k)
    _check(q, k, v, intervals, joined)
    call = Call(
        q=q, k=k, v=v, q_offsets=q_offsets.contiguous(), kv_offsets=kv_offsets.contiguous(),
        intervals=intervals.contiguous(), softmax=score == "softmax", scale=scale, divisor=divisor,
        bias=joined,
    )  # fmt: skip
    table = q.new_zeros(0) if joined is None else joined.table
    result: Tensor = _Attend.apply(q, k, v, table, call)
    return result


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, table: Tensor, call: Call) -> Tensor:
        out, log_sums = launch.forward(call)
        ctx.save_for_backward(q, k, v, table, out, log_sums)
        # Tensors that need gradients are kept by autograd alone: elsewhere they would leak.
        bias = None if call.bias is None else replace(call.bias, table=table.new_empty(0))
        empty = q.new_empty(0)
        ctx.call = replace(call, q=empty, k=empty, v=empty, bias=bias)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, out_gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, table, out, log_sums = ctx.saved_tensors
        bias = ctx.call.bias
        bias = None if bias is None else replace(bias, table=table.contiguous())
        call = replace(ctx.call, q=q, k=k, v=v, bias=bias)
        out_gradient = out_gradient.contiguous()
        q_gradient, deltas = launch.query_gradient(call, out, log_sums, out_gradient)
        k_gradient, v_gradient = launch.key_value_gradient(call, log_sums, deltas, out_gradient)
        table_gradient = None
        if bias is not None and ctx.needs_input_grad[3]:
            sums = launch.bias_gradient(call, bias, log_sums, deltas, out_gradient)
            table_gradient = _spread(*sums).to(table.dtype)
        return q_gradient, k_gradient, v_gradient, table_gradient, None


def _spread(by_distance: Tensor, by_bucket: Tensor) -> Tensor:
    """A [P*NB] gradient whose sums over buckets and over distances are the given.

    The table is position_bias[p] + time_bias[b], so nothing but these sums ever reaches a weight, and
    P + NB of them are summed in place of P * NB.
    """
    num_positions, num_buckets = len(by_distance), len(by_bucket)
    over_mean = (by_bucket - by_bucket.mean()) / num_positions
    return (by_distance[:, None] / num_buckets + over_mean).flatten()


def _check(q: Tensor, k: Tensor, v: Tensor, intervals: Tensor, bias: JoinedBias | None) -> None:
    if q.device.type != "cuda" and not _INTERPRETED:
        raise _refused("device", f"It is {q.device}, not a GPU, and TRITON_INTERPRET is not set.")
    if q.dtype not in _DTYPES:
        raise _refused("dtype", f"It is {q.dtype}; there are float32, bfloat16 and float16.")
    if _INTERPRETED and q.dtype == torch.bfloat16:
        raise _refused("dtype", "Triton's interpreter multiplies the bits of bfloat16 as integers.")
    if not (0 < q.shape[2] <= _MAX_WIDTH and 0 < v.shape[2] <= _MAX_WIDTH):
        raise _refused(
            "width", f"D is {q.shape[2]} and V {v.shape[2]}; both must lie in 1..{_MAX_WIDTH}."
        )
    if q.shape[1] > _MAX_HEADS:
        raise _refused("heads", f"There are {q.shape[1]}; at most {_MAX_HEADS} fit a grid.")
    for name, x in zip("qkv", (q, k, v), strict=True):
        if x.numel() and x.stride(2) != 1:
            raise _refused(name, f"Its strides are {x.stride()}; the last must be 1.")
    for name, x in (("intervals", intervals), *_tensors(bias)):
        if x.device != q.device:
            raise _refused(name, f"It is on {x.device}, q on {q.device}.")


def _tensors(bias: JoinedBias | None) -> list[tuple[str, Tensor]]:
    if bias is None:
        return []
    names = ("table", "q_positions", "q_times_ms", "kv_times_ms")
    return [(f"bias.{name}", getattr(bias, name)) for name in names]


def _refused(argument: str, detail: str) -> FreshetError:
    return FreshetError(f"Triton's interval attention refuses {argument}", detail=detail)
