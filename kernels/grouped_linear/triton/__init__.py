"""Grouped linear in Triton: differentiable, deterministic, rows gathered inside the product."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from kernels.grouped_linear.operator import OPERATION
from kernels.grouped_linear.triton.kernels import product_kernel, weight_gradient_kernel
from kernels.interval_attention.triton.launch import tiles_of


@dataclass(frozen=True)
class Configuration:
    """The block of each dimension of a product, warps of a program, and blocks in flight."""

    block_rows: int
    block_in: int
    block_out: int
    num_warps: int
    num_stages: int


def configuration(dtype: torch.dtype) -> Configuration:
    """The blocks of both kernels; a function of the type alone, as the bits depend on it."""
    if dtype == torch.float32:
        return Configuration(32, 32, 32, 4, 2)
    return Configuration(64, 64, 64, 4, 3)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, order: Tensor, offsets: Tensor
) -> Tensor:
    """`reference.reference` by Triton kernels, on a GPU (or anywhere under TRITON_INTERPRET=1)."""
    out: Tensor = torch.ops.freshet_triton.grouped_linear(
        x.contiguous(), weight, bias, order, offsets
    )
    return out


def _multiply(
    x: Tensor, weight: Tensor, bias: Tensor | None, order: Tensor, offsets: Tensor
) -> Tensor:
    num_groups, num_in, num_out = weight.shape
    out = x.new_empty(len(x), num_out)
    chosen = configuration(x.dtype)
    tiles = tiles_of(offsets, len(x), chosen.block_rows)
    if tiles.num and num_out:
        product_kernel[tiles.num, triton.cdiv(num_out, chosen.block_out)](
            x, weight, x if bias is None else bias.contiguous(), out, order, offsets,
            tiles.sequences, tiles.first, num_groups, x.stride(0), *weight.stride(),
            BIASED=bias is not None, IN=num_in, OUT=num_out, BLOCK_ROWS=chosen.block_rows,
            BLOCK_IN=chosen.block_in, BLOCK_OUT=chosen.block_out, num_warps=chosen.num_warps,
            num_stages=chosen.num_stages,
        )  # fmt: skip
    return out


def _backward(
    out_gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    order: Tensor,
    offsets: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    given = out_gradient.contiguous()
    num_groups, num_in, num_out = weight.shape
    weight_gradient = weight.new_empty(weight.shape)
    bias_gradient = x.new_empty(0 if bias is None else bias.shape)
    chosen = configuration(x.dtype)
    blocks = triton.cdiv(num_in, chosen.block_in), triton.cdiv(num_out, chosen.block_out)
    if num_in and num_out:
        weight_gradient_kernel[num_groups, *blocks](
            x, given, weight_gradient, bias_gradient, order, offsets, x.stride(0),
            BIASED=bias is not None, IN=num_in, OUT=num_out, BLOCK_ROWS=chosen.block_rows,
            BLOCK_IN=chosen.block_in, BLOCK_OUT=chosen.block_out, num_warps=chosen.num_warps,
            num_stages=chosen.num_stages,
        )  # fmt: skip
    x_gradient = _multiply(given, weight.transpose(1, 2), None, order, offsets)
    return x_gradient, weight_gradient, bias_gradient


OPERATION.define("freshet_triton", _multiply, _backward)
