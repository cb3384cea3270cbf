"""The cost of a mask, against what PyTorch counts of the dense formula and what a loop counts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kernels import intervals
from kernels.interval_attention import interval_attention
from kernels.jagged import offsets_of
from tests.kernels.masks import MASKS

HEADS, WIDTH, VALUE_WIDTH = 3, 8, 5
SIZES = {"num_heads": HEADS, "width": WIDTH, "value_width": VALUE_WIDTH}


@pytest.mark.parametrize("name", MASKS)
def test_pairs_are_the_ones_of_the_dense_mask(name: str) -> None:
    lengths = torch.tensor([0, 1, 63, 30])
    mask = MASKS[name](lengths)
    column = torch.arange(63)
    a0, b0, a1, b1 = mask[:, :, None].unbind(1)
    dense = ((column >= a0) & (column < b0)) | ((column >= a1) & (column < b1))
    assert intervals.num_pairs(mask) == int(dense.sum())


def dense_pass(length: int) -> Tensor:
    q, k = (torch.randn(HEADS, length, WIDTH, requires_grad=True) for _ in range(2))
    v = torch.randn(HEADS, length, VALUE_WIDTH, requires_grad=True)
    return torch.bmm((torch.bmm(q, k.mT)).relu(), v)


def test_flops_are_those_pytorch_counts_when_every_row_sees_all() -> None:
    mask = intervals.full(torch.tensor([21]))
    with FlopCounterMode(display=False) as counter:
        output = dense_pass(21)
    assert intervals.num_flops(mask, **SIZES) == counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        output.sum().backward()
    scores_anew = 2 * HEADS * 21 * 21 * WIDTH
    expected = counter.get_total_flops() + scores_anew
    assert intervals.num_flops(mask, **SIZES, backward=True) == expected


def test_flops_grow_by_a_row_as_the_row_sees() -> None:
    causal = intervals.causal(torch.tensor([5]))
    rows = [intervals.num_flops(causal[i : i + 1], **SIZES) for i in range(5)]
    assert rows == [(i + 1) * rows[0] for i in range(5)]
    assert intervals.num_flops(causal, **SIZES) == sum(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bytes_are_those_of_the_tensors_that_go_in_and_come_out(dtype: torch.dtype) -> None:
    rows, columns = torch.tensor([2, 3]), torch.tensor([9, 4])
    q = torch.randn(5, HEADS, WIDTH, dtype=dtype, requires_grad=True)
    k = torch.randn(13, HEADS, WIDTH, dtype=dtype, requires_grad=True)
    v = torch.randn(13, HEADS, VALUE_WIDTH, dtype=dtype, requires_grad=True)
    mask = intervals.candidates(columns - rows, rows)
    output = interval_attention(
        q, k, v, q_offsets=offsets_of(rows), kv_offsets=offsets_of(columns), intervals=mask,
        score="silu", scale=1.0,
    )  # fmt: skip
    shape = {**SIZES, "num_columns": 13, "element_bytes": dtype.itemsize}
    inputs = [q, k, v, mask]
    assert intervals.num_bytes(mask, **shape) == sum(x.nbytes for x in [*inputs, output])
    output_gradient = torch.ones_like(output)
    gradients = torch.autograd.grad(output, [q, k, v], output_gradient)
    moved = sum(x.nbytes for x in [*inputs, output_gradient, *gradients])
    assert intervals.num_bytes(mask, **shape, backward=True) == moved
