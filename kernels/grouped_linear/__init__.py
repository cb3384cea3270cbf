"""A linear layer in which every row picks its own weight out of a few."""

from __future__ import annotations

from torch import Tensor

from ingest.runtime.errors import FreshetError
from kernels.dispatch import AUTO, Wish
from kernels.grouped_linear.dispatch import BACKENDS
from kernels.groups import check_group, sort_groups


def grouped_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, group: Tensor, *, backend: str = AUTO
) -> Tensor:
    """Compute y_t = x_t weight[group_t] + bias[group_t].

    Shapes: x [T,I], weight [G,I,O], bias [G,O] or None, group int64[T] in 0..G-1 -> [T,O]. `backend`
    is a name of `dispatch.BACKENDS`, or "auto".

    Raises:
        FreshetError: a wrong dtype, shape or device, a group outside 0..G-1, or a backend that cannot
            do this.

    Example:
        >>> import torch
        >>> weight = torch.stack([torch.eye(2), 3 * torch.eye(2)])
        >>> grouped_linear(torch.ones(2, 2), weight, None, torch.tensor([1, 0])).tolist()
        [[3.0, 3.0], [1.0, 1.0]]
    """
    _check(x, weight, bias)
    check_group(group, x, "grouped linear")
    order, offsets = sort_groups(group, len(weight))
    run = BACKENDS.choose(backend, Wish.of(x, max(weight.shape[1:]))).run
    out: Tensor = run(x, weight, bias, order, offsets)
    return out


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if x.dim() != 2 or weight.dim() != 3 or not len(weight) or x.shape[1] != weight.shape[1]:
        raise _refused("shape", f"{_seen(x, weight)}; wanted [T,I] and [G,I,O].")
    if bias is not None and bias.shape != (weight.shape[0], weight.shape[2]):
        raise _refused("bias", f"It is {tuple(bias.shape)} for weight {tuple(weight.shape)}.")
    floating = [x, weight] if bias is None else [x, weight, bias]
    if len({tensor.dtype for tensor in floating}) > 1 or not x.is_floating_point():
        raise _refused("dtype", f"{_seen(x, weight)}; wanted one floating dtype.")
    if len({tensor.device for tensor in floating}) > 1:
        raise _refused("device", "All must be on one device.")


def _seen(x: Tensor, weight: Tensor) -> str:
    return f"x {tuple(x.shape)} {x.dtype}, weight {tuple(weight.shape)} {weight.dtype}"


def _refused(argument: str, detail: str) -> FreshetError:
    return FreshetError(f"grouped linear refuses {argument}", detail=detail)
