"""A row normalised and multiplied by its gate, in one pass: the output step of HSTU."""

from __future__ import annotations

from torch import Tensor

from ingest.runtime.errors import FreshetError
from kernels.dispatch import AUTO, Wish
from kernels.grouped_norm import check_rows
from kernels.grouped_norm.dispatch import backends

_BACKENDS = backends("norm gate")


def norm_gate(
    x: Tensor,
    gate: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    epsilon: float = 1e-5,
    backend: str = AUTO,
) -> Tensor:
    """Compute y_t = layer_norm(x_t) * gate_t, a row's heads normalised together.

    HSTU, Zhai et al. 2024, equation 3: Norm(A V) * U. Only the mean and the deviation of a row are
    kept for the backward pass; `gate` may be a view whose last dimension is dense.

    Shapes: x, gate [T,H,V]; weight [H*V]; bias [H*V] or None -> [T,H*V]. `backend` is a name of
    `grouped_norm.dispatch.backends`, or "auto".

    Raises:
        FreshetError: arguments that do not fit, or a backend that cannot do this or is not built.

    Example:
        >>> import torch
        >>> x, gate = torch.tensor([[[1.0, -1.0]]]), torch.tensor([[[2.0, 3.0]]])
        >>> norm_gate(x, gate, torch.ones(2), None, epsilon=0.0).tolist()
        [[2.0, -3.0]]
    """
    tables = weight[None], None if bias is None else bias[None]
    check_rows("norm gate", x, *tables, epsilon, num_dims=3)
    if gate.shape != x.shape or gate.dtype != x.dtype or gate.device != x.device:
        raise FreshetError(
            "norm gate refuses gate",
            detail=f"It is {tuple(gate.shape)} {gate.dtype} {gate.device}, x is {tuple(x.shape)} "
            f"{x.dtype} {x.device}.",
        )
    if gate.numel() and gate.stride(2) != 1:
        gate = gate.contiguous()
    run = _BACKENDS.choose(backend, Wish.of(x, weight.numel())).run
    out: Tensor = run(x, gate, *tables, None, None, False, epsilon)
    return out.flatten(1)
