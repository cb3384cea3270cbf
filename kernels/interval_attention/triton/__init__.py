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
from kernels.interval_attention.triton.launch import Call

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MAX_WIDTH = 256
_MAX_HEADS = 65_535
# Indices within a sequence are int32 and a tile may reach past its end; addresses are int64.
_MAX_ROWS = 2**30
# How PyTorch lets the process say that float32 may be multiplied by the matrix units.
_PRECISIONS = {"highest": "ieee", "high": "tf32", "medium": "tf32"}
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
    _check(q, k, v, intervals, bias)
    call = Call(
        q=q, k=k, v=v, q_offsets=q_offsets.contiguous(), kv_offsets=kv_offsets.contiguous(),
        intervals=intervals.contiguous(), softmax=score == "softmax", scale=scale, divisor=divisor,
        bias=_contiguous(bias), precision=_PRECISIONS[torch.get_float32_matmul_precision()],
    )  # fmt: skip
    by_distance = None if call.bias.position is None else call.bias.position.table
    by_bucket = None if call.bias.time is None else call.bias.time.table
    result: Tensor = _Attend.apply(q, k, v, by_distance, by_bucket, call)
    return result


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        by_distance: Tensor | None,
        by_bucket: Tensor | None,
        call: Call,
    ) -> Tensor:
        out, log_sums = launch.forward(call)
        ctx.save_for_backward(q, k, v, by_distance, by_bucket, out, log_sums)
        # Tensors that need gradients are kept by autograd alone: elsewhere they would leak.
        empty = q.new_empty(0)
        ctx.call = replace(
            call, q=empty, k=empty, v=empty, bias=_with_tables(call.bias, empty, empty)
        )
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, out_gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, by_distance, by_bucket, out, log_sums = ctx.saved_tensors
        bias = _with_tables(ctx.call.bias, by_distance, by_bucket)
        call = replace(ctx.call, q=q, k=k, v=v, bias=bias)
        out_gradient = out_gradient.contiguous()
        q_gradient, deltas = launch.query_gradient(call, out, log_sums, out_gradient)
        k_gradient, v_gradient = launch.key_value_gradient(call, log_sums, deltas, out_gradient)
        gradients = [q_gradient, k_gradient, v_gradient, None, None, None]
        if any(ctx.needs_input_grad[3:5]):
            sums = launch.bias_gradient(call, log_sums, deltas, out_gradient)
            for at, summed in zip((3, 4), sums, strict=True):
                gradients[at] = summed.to(q.dtype) if ctx.needs_input_grad[at] else None
        return tuple(gradients)


def _contiguous(bias: Bias) -> Bias:
    def dense(part: Any) -> Any:
        return part and replace(part, **{name: x.contiguous() for name, x in vars(part).items()})

    return Bias(position=dense(bias.position), time=dense(bias.time))


def _with_tables(bias: Bias, by_distance: Tensor, by_bucket: Tensor) -> Bias:
    position, time = bias.position, bias.time
    return Bias(
        position=None if position is None else replace(position, table=by_distance),
        time=None if time is None else replace(time, table=by_bucket),
    )


def _check(q: Tensor, k: Tensor, v: Tensor, intervals: Tensor, bias: Bias) -> None:
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
    for name, x in (("q", q), ("k", k)):
        if len(x) > _MAX_ROWS:
            raise _refused(name, f"It has {len(x)} rows; at most {_MAX_ROWS} can be numbered.")
    for name, x in zip("qkv", (q, k, v), strict=True):
        if x.numel() and x.stride(2) != 1:
            raise _refused(name, f"Its strides are {x.stride()}; the last must be 1.")
    for name, x in (("intervals", intervals), *_tensors(bias)):
        if x.device != q.device:
            raise _refused(name, f"It is on {x.device}, q on {q.device}.")


def _tensors(bias: Bias) -> list[tuple[str, Tensor]]:
    present = {"position": bias.position, "time": bias.time}
    return [
        (f"bias.{side}.{name}", x)
        for side, part in present.items()
        if part is not None
        for name, x in vars(part).items()
    ]


def _refused(argument: str, detail: str) -> FreshetError:
    return FreshetError(f"Triton's interval attention refuses {argument}", detail=detail)
