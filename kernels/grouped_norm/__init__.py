"""Layer norm or RMS norm in which every row picks its weight and bias out of a few."""

from __future__ import annotations

import math

from torch import Tensor

from ingest.runtime.errors import FreshetError
from kernels.dispatch import AUTO, Wish
from kernels.grouped_norm.dispatch import backends
from kernels.groups import check_group, sort_groups

_BACKENDS = backends("grouped norm")


def grouped_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    group: Tensor,
    *,
    rms: bool = False,
    epsilon: float = 1e-5,
    backend: str = AUTO,
) -> Tensor:
    """Compute y_t = normal(x_t) * weight[group_t] + bias[group_t].

    normal(x) is (x - mean) / sqrt(variance + epsilon) (Ba et al. 2016), or with `rms`
    x / sqrt(mean of squares + epsilon) (Zhang and Sennrich 2019). With the kind of a token as group
    this is MTGR's group layer normalisation.

    Shapes: x [T,E], weight [G,E], bias [G,E] or None, group int64[T] in 0..G-1 -> [T,E]. `backend` is
    a name of `dispatch.backends`, or "auto".

    Raises:
        FreshetError: arguments that do not fit, or a backend that cannot do this or is not built.

    Example:
        >>> import torch
        >>> weight = torch.tensor([[1.0, 1.0], [2.0, 2.0]])
        >>> x = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
        >>> grouped_norm(x, weight, None, torch.tensor([1, 0]), epsilon=0.0).tolist()
        [[2.0, -2.0], [1.0, -1.0]]
    """
    check_rows("grouped norm", x, weight, bias, epsilon, num_dims=2)
    check_group(group, x, "grouped norm")
    order, offsets = sort_groups(group, len(weight))
    run = _BACKENDS.choose(backend, Wish.of(x, x.shape[1])).run
    out: Tensor = run(x[:, None], None, weight, bias, order, offsets, rms, epsilon)
    return out[:, 0]


def check_rows(
    operation: str, x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float, *, num_dims: int
) -> None:
    """Refuse weights [G,E] that do not fit rows x [T,...] of E numbers each.

    Raises:
        FreshetError: another dtype, device or shape, or an epsilon below 0.
    """
    width = x[0:1].numel() if len(x) else math.prod(x.shape[1:])
    if x.dim() != num_dims or not width:
        raise _refused(operation, "x", f"It is {tuple(x.shape)}; wanted {num_dims} dimensions.")
    if not x.is_floating_point():
        raise _refused(operation, "x", f"It is {x.dtype}; wanted a floating dtype.")
    for name, table in (("weight", weight), ("bias", bias)):
        if table is None:
            continue
        if table.dim() != 2 or table.shape != (len(weight), width):
            raise _refused(
                operation, name, f"It is {tuple(table.shape)}; wanted {(len(weight), width)}."
            )
        if table.dtype != x.dtype or table.device != x.device:
            raise _refused(
                operation, name,
                f"It is {table.dtype} on {table.device}; x is {x.dtype} on {x.device}.",
            )  # fmt: skip
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise _refused(operation, "epsilon", f"It is {epsilon}, not a finite number of at least 0.")


def _refused(operation: str, argument: str, detail: str) -> FreshetError:
    return FreshetError(f"{operation} refuses {argument}", detail=detail)
