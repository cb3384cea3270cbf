"""silu(x) = x * sigmoid(x), by attention's exponential on a processor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kernels.dispatch import AUTO, Backend, Backends, Wish
from kernels.interval_attention.cpu import operator as cpu


def silu(x: Tensor, *, backend: str = AUTO) -> Tensor:
    """Compute x * sigmoid(x), number by number; differentiable once.

    PyTorch's own spends on a processor several times as long in its exponential.

    Raises:
        FreshetError: no such backend, it cannot do this, or it is not built.

    Example:
        >>> silu(torch.tensor([0.0, 1.0]))
        tensor([0.0000, 0.7311])
    """
    result: Tensor = _BACKENDS.choose(backend, Wish.of(x, 0)).run(x)
    return result


def _silu_cpu(x: Tensor) -> Tensor:
    cpu.load()
    out: Tensor = torch.ops.freshet_cpu.silu(x)
    return out


def _keep(ctx: Any, inputs: tuple[Tensor], **_: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, out_gradient: Tensor) -> Tensor:
    gradient: Tensor = torch.ops.freshet_cpu.silu_backward(out_gradient, *ctx.saved_tensors)
    return gradient


# Declared here, implemented by the library of `make kernels`.
_library = torch.library.Library("freshet_cpu", "FRAGMENT")
_library.define("silu(Tensor x) -> Tensor")
_library.define("silu_backward(Tensor out_gradient, Tensor x) -> Tensor")
torch.library.register_fake("freshet_cpu::silu", lambda x: x.new_empty(x.shape))
torch.library.register_fake("freshet_cpu::silu_backward", lambda _, x: x.new_empty(x.shape))
torch.library.register_autograd("freshet_cpu::silu", _backward, setup_context=_keep)

_BACKENDS = Backends(
    operation="silu",
    table={
        "cpu": Backend(
            run=_silu_cpu,
            devices=frozenset({"cpu"}),
            dtypes=frozenset({torch.float32, torch.float64}),
        ),
        # On a GPU PyTorch's own is as fast as memory.
        "torch": Backend(run=functional.silu, devices=frozenset({"cuda"})),
        "reference": Backend(run=functional.silu, automatic=False),
    },
)
