"""A linear layer in which every row picks its own weight out of a few."""

from __future__ import annotations

import torch
from torch import Tensor

from ingest.runtime.errors import FreshetError
from kernels.grouped_linear.reference import reference


def grouped_linear(x: Tensor, weight: Tensor, bias: Tensor | None, group: Tensor) -> Tensor:
    """Compute y_t = x_t weight[group_t] + bias[group_t].

    Shapes: x [T,I], weight [G,I,O], bias [G,O] or None, group int64[T] in 0..G-1 -> [T,O].

    Raises:
        FreshetError: a wrong dtype, shape or device, or a group outside 0..G-1.

    Example:
        >>> weight = torch.stack([torch.eye(2), 3 * torch.eye(2)])
        >>> grouped_linear(torch.ones(2, 2), weight, None, torch.tensor([1, 0])).tolist()
        [[3.0, 3.0], [1.0, 1.0]]
    """
    _check(x, weight, bias, group)
    return reference(x, weight, bias, group)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, group: Tensor) -> None:
    seen = f"x {tuple(x.shape)} {x.dtype}, weight {tuple(weight.shape)} {weight.dtype}"
    if x.dim() != 2 or weight.dim() != 3 or x.shape[1] != weight.shape[1]:
        raise _refused("shape", f"{seen}; wanted [T,I] and [G,I,O].")
    if bias is not None and bias.shape != (weight.shape[0], weight.shape[2]):
        raise _refused("bias", f"It is {tuple(bias.shape)} for weight {tuple(weight.shape)}.")
    floating = [x, weight] if bias is None else [x, weight, bias]
    if len({tensor.dtype for tensor in floating}) > 1 or not x.is_floating_point():
        raise _refused("dtype", f"{seen}; wanted one floating dtype.")
    if len({tensor.device for tensor in [*floating, group]}) > 1:
        raise _refused("device", "All must be on one device.")
    if group.dtype != torch.int64 or group.shape != x.shape[:1]:
        raise _refused("group", f"It is {tuple(group.shape)} {group.dtype}, not int64 of {len(x)}.")
    if len(group) and not 0 <= int(group.min()) <= int(group.max()) < len(weight):
        raise _refused(
            "group", f"It spans {int(group.min())}..{int(group.max())} of {len(weight)} groups."
        )


def _refused(argument: str, detail: str) -> FreshetError:
    return FreshetError(f"grouped linear refuses {argument}", detail=detail)
