"""What of grouped norm and norm gate `make kernels-aot` compiles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import triton

from kernels.aot import AotCase
from kernels.grouped_norm.triton import SUM_ROWS, SUM_WIDTH, configuration
from kernels.grouped_norm.triton.kernels import backward_kernel, forward_kernel, sum_kernel

_OF_THE_TYPE = ("x", "gate", "weight", "bias", "out", "out_gradient", "x_gradient", "gate_gradient")
_HEADS = 4


def aot_cases(arch: int) -> Iterator[AotCase]:
    """Every kernel, gated and by groups, in its default configurations on one architecture."""
    for dtype in ("bf16", "fp32"):
        for width in (256, 1024, 8192):
            for variant in ("gated", "grouped"):
                for name, kernel in (("forward", forward_kernel), ("backward", backward_kernel)):
                    yield _case(name, kernel, arch, dtype, width, variant)
    yield _sum_case(arch, 2048)


def _case(name: str, kernel: Any, arch: int, dtype: str, width: int, variant: str) -> AotCase:
    chosen = configuration(width)
    grouped = variant == "grouped"
    types = {
        **dict.fromkeys(_OF_THE_TYPE, f"*{dtype}"),
        **dict.fromkeys(("means", "rstds", "partials"), "*fp32"),
        **dict.fromkeys(("order", "offsets"), "*i64"),
        **dict.fromkeys(("tile_groups", "first_tiles"), "*i32"),
        **dict.fromkeys(("num_groups", "gate_row", "gate_head"), "i32"),
        "epsilon": "fp32",
    }
    return AotCase(
        op="grouped_norm",
        name=name,
        kernel=kernel,
        arch=arch,
        dtype=dtype,
        shape=f"E={width}",
        variant=variant,
        tile=f"{chosen.block_rows} x {triton.next_power_of_2(width)}",
        types={argument: types[argument] for argument in kernel.arg_names if argument in types},
        constants={
            "GATED": not grouped, "BIASED": True, "SORTED": grouped, "RMS": False,
            "HEAD_WIDTH": width // _HEADS, "WIDTH": width,
            "BLOCK_WIDTH": triton.next_power_of_2(width), "BLOCK_ROWS": chosen.block_rows,
            "TILE_ROWS": chosen.tile_rows,
        },
        multiples_of_16=frozenset({"gate_row", "gate_head"}),
        num_warps=chosen.num_warps,
        num_stages=chosen.num_stages,
    )  # fmt: skip


def _sum_case(arch: int, width: int) -> AotCase:
    return AotCase(
        op="grouped_norm",
        name="sum",
        kernel=sum_kernel,
        arch=arch,
        dtype="fp32",
        shape=f"E={width // 2}",
        tile=f"{SUM_ROWS} x {SUM_WIDTH}",
        types={"partials": "*fp32", "sums": "*fp32", "first_tiles": "*i32"},
        constants={"WIDTH": width, "BLOCK_ROWS": SUM_ROWS, "BLOCK_WIDTH": SUM_WIDTH},
        num_warps=4,
        num_stages=3,
    )
