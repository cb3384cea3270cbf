"""Grouped norm in Triton: differentiable, deterministic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from kernels.grouped_norm.operator import OPERATION
from kernels.grouped_norm.triton.kernels import backward_kernel, forward_kernel, sum_kernel
from kernels.interval_attention.triton.launch import Tiles, tiles_of

SUM_ROWS, SUM_WIDTH = 32, 64


@dataclass(frozen=True)
class Configuration:
    """Rows that a program takes, in how many at a time, its warps, and loads in flight."""

    tile_rows: int
    block_rows: int
    num_warps: int
    num_stages: int = 1


def configuration(width: int) -> Configuration:
    """About 2,048 numbers at a time; a function of the width alone, as the bits depend on it."""
    block = triton.next_power_of_2(width)
    rows = max(1, min(32, 2048 // block))
    return Configuration(max(32, rows), rows, 4 if block <= 2048 else 8)


def norm(
    x: Tensor,
    gate: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    order: Tensor | None,
    offsets: Tensor | None,
    rms: bool,
    epsilon: float,
) -> Tensor:
    """`reference.reference` by Triton kernels, on a GPU (or anywhere under TRITON_INTERPRET=1)."""
    out: Tensor = torch.ops.freshet_triton.grouped_norm(
        x.contiguous(), gate, weight, bias, order, offsets, rms, epsilon
    )[0]
    return out


def _forward(
    x: Tensor,
    gate: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    order: Tensor | None,
    offsets: Tensor | None,
    rms: bool,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    out = torch.empty_like(x)
    mean = torch.empty(len(x), dtype=torch.float32, device=x.device)
    rstd = torch.empty_like(mean)
    tiles, named = _arguments(x, gate, weight, bias, order, offsets, rms)
    if tiles.num:
        forward_kernel[(tiles.num,)](out=out, means=mean, rstds=rstd, epsilon=epsilon, **named)
    return out, mean, rstd


def _backward(
    out_gradient: Tensor,
    mean: Tensor,
    rstd: Tensor,
    x: Tensor,
    gate: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    order: Tensor | None,
    offsets: Tensor | None,
    rms: bool,
    _epsilon: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tiles, named = _arguments(x, gate, weight, bias, order, offsets, rms)
    num_groups, width = weight.shape
    x_gradient = torch.empty_like(x)
    gate_gradient = x.new_empty(0) if gate is None else torch.empty_like(x)
    partials = torch.empty(tiles.num, 2 * width, dtype=torch.float32, device=x.device)
    sums = partials.new_empty(num_groups, 2 * width)
    if tiles.num:
        backward_kernel[(tiles.num,)](
            out_gradient=out_gradient.contiguous(), means=mean, rstds=rstd, x_gradient=x_gradient,
            gate_gradient=gate_gradient, partials=partials, **named,
        )  # fmt: skip
    sum_kernel[num_groups, triton.cdiv(2 * width, SUM_WIDTH)](
        partials, sums, tiles.first, WIDTH=2 * width, BLOCK_ROWS=SUM_ROWS, BLOCK_WIDTH=SUM_WIDTH
    )
    weight_gradient, bias_gradient = sums.to(weight.dtype).split(width, dim=1)
    # Operators may not give out views of one another.
    return (
        x_gradient,
        gate_gradient,
        weight_gradient.clone(),
        x.new_empty(0) if bias is None else bias_gradient.clone(),
    )


def _arguments(
    x: Tensor,
    gate: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    order: Tensor | None,
    offsets: Tensor | None,
    rms: bool,
) -> tuple[Tiles, dict[str, Any]]:
    """The tiles, and what both kernels name alike; what is absent points to what is never read."""
    num_rows, _, head_width = x.shape
    num_groups, width = weight.shape
    chosen = configuration(width)
    if offsets is None:
        offsets = torch.tensor([0, num_rows], device=x.device)
    tiles = tiles_of(offsets, num_rows, chosen.tile_rows)
    return tiles, {
        "x": x, "gate": x if gate is None else gate, "weight": weight.contiguous(),
        "bias": weight if bias is None else bias.contiguous(),
        "order": offsets if order is None else order, "offsets": offsets,
        "tile_groups": tiles.sequences, "first_tiles": tiles.first, "num_groups": num_groups,
        "gate_row": 0 if gate is None else gate.stride(0),
        "gate_head": 0 if gate is None else gate.stride(1),
        "GATED": gate is not None, "BIASED": bias is not None, "SORTED": order is not None,
        "RMS": rms, "HEAD_WIDTH": head_width, "WIDTH": width,
        "BLOCK_WIDTH": triton.next_power_of_2(width), "BLOCK_ROWS": chosen.block_rows,
        "TILE_ROWS": chosen.tile_rows, "num_warps": chosen.num_warps,
        "num_stages": chosen.num_stages,
    }  # fmt: skip


OPERATION.define("freshet_triton", _forward, _backward)
