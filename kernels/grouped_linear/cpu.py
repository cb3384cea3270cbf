"""Grouped linear on a processor: rows gathered by group, then one product a group."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kernels.grouped_linear.operator import OPERATION

# Where all sizes are multiples of this, a row's bits depend neither on how many rows there are nor on
# where it stands among them: the matrix library takes other paths, which round otherwise, for less.
_STEP = 16


@dataclass(frozen=True)
class _Packed:
    """Every group's rows together, each group and each row filled up with zeros to a multiple of `_STEP`.

    Shapes: `slots` int64[T], where each row lies; `spans` of the groups that have rows, as
    (group, first, last). With `even` all groups are as long as one another.
    """

    slots: Tensor
    spans: list[tuple[int, int, int]]
    num_rows: int
    num_groups: int

    @property
    def even(self) -> bool:
        sizes = {last - first for _, first, last in self.spans}
        return len(sizes) == 1 and len(self.spans) == self.num_groups

    def pack(self, x: Tensor) -> Tensor:
        packed = x.new_zeros(self.num_rows, _padded(x.shape[1]))
        packed[:, : x.shape[1]].index_copy_(0, self.slots, x)
        return packed

    def multiply(self, packed: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[rows,I] by [G,I,O], unpacked."""
        num_out = weight.shape[2]
        weight = _pad(weight, 2)
        bias = None if bias is None else _pad(bias, 1)
        if self.even:
            blocks = packed.unflatten(0, (self.num_groups, -1))
            out = blocks @ weight if bias is None else torch.baddbmm(bias[:, None], blocks, weight)
            return out.flatten(0, 1)[:, :num_out].index_select(0, self.slots)
        out = packed.new_empty(self.num_rows, weight.shape[2])
        for group, first, last in self.spans:
            part = out[first:last]
            if bias is None:
                torch.mm(packed[first:last], weight[group], out=part)
            else:
                torch.addmm(bias[group], packed[first:last], weight[group], out=part)
        return out[:, :num_out].index_select(0, self.slots)


def _padded(width: int) -> int:
    return (width + _STEP - 1) // _STEP * _STEP


def _pad(x: Tensor, num_dims: int) -> Tensor:
    """Zeros behind the last dimensions; the tensor itself where there is nothing to add."""
    missing = [_padded(width) - width for width in x.shape[-num_dims:]]
    if not any(missing):
        return x
    return functional.pad(x, [each for width in reversed(missing) for each in (0, width)])


def _pack(order: Tensor, offsets: Tensor) -> _Packed:
    sizes = offsets.diff()
    ends = ((sizes + _STEP - 1) // _STEP * _STEP).cumsum(0)
    starts = [0, *ends.tolist()]
    shift = torch.tensor(starts[:-1], dtype=torch.int64) - offsets[:-1]
    places = torch.arange(len(order)) + torch.repeat_interleave(shift, sizes)
    spans = [
        (group, starts[group], starts[group + 1])
        for group in range(len(sizes))
        if starts[group] < starts[group + 1]
    ]
    slots = torch.empty_like(order).index_copy_(0, order, places)
    return _Packed(slots, spans, starts[-1], len(sizes))


def _widened(x: Tensor) -> Tensor:
    """In at least 32 bits: half precision is that of inputs and results alone."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, order: Tensor, offsets: Tensor
) -> Tensor:
    packed = _pack(order, offsets)
    wide, weight = _widened(x), _widened(weight)
    bias = None if bias is None else _widened(bias)
    return packed.multiply(packed.pack(wide), weight, bias).to(x.dtype)


def _backward(
    out_gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    order: Tensor,
    offsets: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    packed, weight = _pack(order, offsets), _widened(weight)
    given, rows = packed.pack(_widened(out_gradient)), packed.pack(_widened(x))
    x_gradient = packed.multiply(given, weight.transpose(1, 2), None)
    weight_gradient = torch.zeros_like(weight, memory_format=torch.contiguous_format)
    bias_gradient = weight.new_zeros(0 if bias is None else bias.shape)
    _, num_in, num_out = weight.shape
    for group, first, last in packed.spans:
        its = given[first:last, :num_out]
        torch.mm(rows[first:last, :num_in].t(), its, out=weight_gradient[group])
        if bias is not None:
            torch.sum(its, 0, out=bias_gradient[group])
    dtype = x.dtype
    return x_gradient.to(dtype), weight_gradient.to(dtype), bias_gradient.to(dtype)


OPERATION.define("freshet_cpu", _forward, _backward)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, order: Tensor, offsets: Tensor
) -> Tensor:
    """`reference.reference`, deterministic; a row's bits do not depend on the other rows."""
    out: Tensor = torch.ops.freshet_cpu.grouped_linear(x, weight, bias, order, offsets)
    return out
