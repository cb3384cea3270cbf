"""What of attention `make kernels-aot` compiles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import torch

from kernels.aot import AotCase
from kernels.interval_attention.triton.backward import (
    key_value_gradient_kernel,
    query_gradient_kernel,
)
from kernels.interval_attention.triton.bias_gradient import bias_gradient_kernel
from kernels.interval_attention.triton.configurations import Kernel, configuration, constants_of
from kernels.interval_attention.triton.forward import forward_kernel
from kernels.interval_attention.triton.tiles import Bias, Matrix, Tiling

# D and V. What shares tiles with another type or width is shown once.
WIDTHS = {
    "bf16": ((64, 64), (128, 128)),
    "fp32": ((64, 64), (128, 128)),
    "tf32": ((64, 64),),
}
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_KERNELS: dict[Kernel, Any] = {
    "forward": forward_kernel,
    "query_gradient": query_gradient_kernel,
    "key_value_gradient": key_value_gradient_kernel,
    "bias_gradient": bias_gradient_kernel,
}
_OF_THE_TYPE = ("q", "k", "v", "out", "out_gradient", "q_gradient", "k_gradient", "v_gradient")
_NUM_POSITIONS, _NUM_BUCKETS = 2048, 64


def aot_cases(arch: int) -> Iterator[AotCase]:
    """Every kernel of attention with both biases in its default configurations."""
    for kernel in get_args(Kernel):
        for dtype, widths in WIDTHS.items():
            for width, value_width in widths:
                for score in ("silu", "softmax"):
                    yield case_of(kernel, arch, dtype, width, value_width, score)


def case_of(
    kernel: Kernel, arch: int, dtype: str, width: int, value_width: int, score: str
) -> AotCase:
    """One kernel; "fp32" is float32 multiplied as such, "tf32" float32 on the matrix units."""
    torch_dtype = _DTYPES.get(dtype, torch.float32)
    chosen = configuration(kernel, max(width, value_width), torch_dtype, arch)
    element = dtype if dtype in _DTYPES else "fp32"
    constants = constants_of(
        chosen, softmax=score == "softmax", num_positions=_NUM_POSITIONS,
        num_buckets=_NUM_BUCKETS, width=width, value_width=value_width, precision="tf32" if dtype == "tf32" else "ieee",
    )  # fmt: skip
    types = {
        **dict.fromkeys(_OF_THE_TYPE, Matrix(f"*{element}", "i32", "i32")),
        **dict.fromkeys(("log_sums", "deltas"), Matrix("*fp32", "i32", "i32")),
        **dict.fromkeys(("row_tiles", "column_tiles"), Tiling("*i64", "*i32", "*i32")),
        **dict.fromkeys(("distance_sums", "bucket_sums"), "*fp32"),
        "bias": Bias(f"*{element}", f"*{element}", "*i64", "*i64", "*i64", "*i64"),
        "kv_offsets": "*i64", "intervals": "*i32", "spans": "*i32", "num_heads": "i32",
        "scale": "fp32", "divisor": "fp32",
    }  # fmt: skip
    return AotCase(
        op="interval_attention",
        name=kernel,
        kernel=_KERNELS[kernel],
        arch=arch,
        dtype=dtype,
        shape=f"D={width}" if width == value_width else f"D={width} V={value_width}",
        variant=score,
        tile=f"{chosen.block_rows} x {chosen.block_columns}",
        types={name: kind for name, kind in types.items() if name in _KERNELS[kernel].arg_names},
        constants=constants | {"BLOCK_BUCKETS": _NUM_BUCKETS},
        multiples_of_16=frozenset(
            f"{name}.{stride}" for name in _OF_THE_TYPE for stride in ("row_stride", "head_stride")
        ),
        num_warps=chosen.num_warps,
        num_stages=chosen.num_stages,
        max_registers=chosen.max_registers,
        uses_matrix_units=dtype in _DTYPES,
    )
