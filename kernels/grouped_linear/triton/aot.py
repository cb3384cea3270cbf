"""What of grouped linear `make kernels-aot` compiles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from kernels.aot import AotCase
from kernels.grouped_linear.triton import configuration
from kernels.grouped_linear.triton.kernels import product_kernel, weight_gradient_kernel

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_OF_THE_TYPE = ("x", "weight", "bias", "out", "out_gradient", "weight_gradient", "bias_gradient")
_STRIDES = ("x_row", "weight_group", "weight_in", "weight_out")
_IN, _OUT = 256, 1024


def aot_cases(arch: int) -> Iterator[AotCase]:
    """Every kernel in its default configurations on one architecture."""
    for dtype in _DTYPES:
        # Forward, the weight's columns lie side by side; for the gradient of x, its rows do.
        yield _case("product", product_kernel, arch, dtype, "forward", "weight_out")
        yield _case("product", product_kernel, arch, dtype, "x gradient", "weight_in")
        yield _case("weight_gradient", weight_gradient_kernel, arch, dtype, "", "")


def _case(name: str, kernel: Any, arch: int, dtype: str, variant: str, dense: str) -> AotCase:
    chosen = configuration(_DTYPES[dtype])
    types: dict[str, Any] = {
        **dict.fromkeys(_OF_THE_TYPE, f"*{dtype}"),
        **dict.fromkeys(("order", "offsets"), "*i64"),
        **dict.fromkeys(("tile_groups", "first_tiles"), "*i32"),
        **dict.fromkeys(("num_groups", *_STRIDES), "i32"),
    }
    # A stride of 1 is a constant to Triton.
    types.pop(dense, None)
    constants = {
        "BIASED": variant != "x gradient", "IN": _IN, "OUT": _OUT,
        "BLOCK_ROWS": chosen.block_rows, "BLOCK_IN": chosen.block_in,
        "BLOCK_OUT": chosen.block_out,
    } | ({dense: 1} if dense else {})  # fmt: skip
    return AotCase(
        op="grouped_linear",
        name=name,
        kernel=kernel,
        arch=arch,
        dtype=dtype,
        shape=f"{_IN} x {_OUT}",
        variant=variant,
        tile=f"{chosen.block_rows} x {chosen.block_in} x {chosen.block_out}",
        types={argument: types[argument] for argument in kernel.arg_names if argument in types},
        constants=constants,
        multiples_of_16=frozenset(name for name in _STRIDES if name != dense),
        num_warps=chosen.num_warps,
        num_stages=chosen.num_stages,
        uses_matrix_units=dtype == "bf16",
    )
