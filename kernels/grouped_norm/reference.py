"""The definition of grouped norm, in plain PyTorch, differentiated by autograd."""

from __future__ import annotations

import torch
from torch import Tensor


def reference(
    x: Tensor,
    gate: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    order: Tensor | None,
    offsets: Tensor | None,
    rms: bool,
    epsilon: float,
) -> Tensor:
    """Normalise with checked arguments; see `operator.register` for shapes."""
    rows = x.flatten(1)
    centred = rows if rms else rows - rows.mean(1, keepdim=True)
    normal = centred * torch.rsqrt(centred.square().mean(1, keepdim=True) + epsilon)
    out = normal * _by_row(weight, order, offsets)
    if bias is not None:
        out = out + _by_row(bias, order, offsets)
    out = out.view(x.shape)
    return out if gate is None else out * gate


def _by_row(table: Tensor, order: Tensor | None, offsets: Tensor | None) -> Tensor:
    """Each row's own row of [G,E]."""
    if order is None or offsets is None:
        return table
    places = torch.arange(len(order), device=order.device)
    in_order = torch.searchsorted(offsets[1:], places, right=True)
    return table.index_select(0, torch.empty_like(order).index_copy(0, order, in_order))
