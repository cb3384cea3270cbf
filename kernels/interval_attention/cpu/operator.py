"""The compiled library as a backend."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from kernels.interval_attention import operator
from kernels.interval_attention.cpu.build import built_library

_NAMESPACE = "freshet_cpu"


def attend(q: Tensor, k: Tensor, v: Tensor, **arguments: Any) -> Tensor:
    """`reference.reference` by the library that `make kernels` builds.

    Raises:
        FreshetError: the library is not built.
    """
    load()
    return operator.attend(_NAMESPACE, q, k, v, **arguments)


@torch.compiler.assume_constant_result
def load() -> None:
    """Load the library `make kernels` built and tell PyTorch about its operators; never compiles.

    Raises:
        FreshetError: the library is not built.
    """
    _load()


@cache
def _load() -> None:
    torch.ops.load_library(built_library())
    operator.register(_NAMESPACE)
