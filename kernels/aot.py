"""Every Triton kernel compiled for GPUs that are not here: registers, spills, memory, occupancy."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ingest.runtime.errors import FreshetError
from kernels.interval_attention.triton import backward, bias_gradient, forward, launch

ROOM = Path(__file__).parent
TABLE = ROOM / "interval_attention" / "triton" / "AOT.md"
FIGURES = ROOM.parent / "build" / "bench" / "kernels-aot.json"
WIDTHS = (64, 128)
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
# Shared memory of one multiprocessor, and the most one program may take, in KiB.
SHARED_KIB = {80: (164, 163), 90: (228, 227), 100: (228, 227)}
_MATRIX = {
    "wgmma": r"wgmma\.mma_async",
    "tcgen05": r"tcgen05\.mma",
    "mma": r"(?<!w)(?<!5)\bmma\.sync",
}
_KERNELS = {
    "forward": forward.forward_kernel,
    "query_gradient": backward.query_gradient_kernel,
    "key_value_gradient": backward.key_value_gradient_kernel,
    "bias_gradient": bias_gradient.bias_gradient_kernel,
}
_FLOATS = ("q", "k", "v", "out", "out_gradient", "q_gradient", "k_gradient", "v_gradient", "table")
_ARGUMENTS = {
    **dict.fromkeys(("log_sums", "deltas", "position_partials", "time_partials"), "*fp32"),
    **dict.fromkeys(("q_offsets", "kv_offsets", "edges"), "*i64"),
    **dict.fromkeys(("q_positions", "q_times", "kv_times"), "*i64"),
    **dict.fromkeys(("intervals", "tile_sequences", "first_tiles"), "*i32"),
    **dict.fromkeys(("spans", "first_row_tiles"), "*i32"),
    **dict.fromkeys(("num_sequences", "num_positions", "num_heads"), "i32"),
    **dict.fromkeys(("scale", "divisor"), "fp32"),
    **{f"{x}_{stride}": "i32" for x in "qkv" for stride in ("row", "head")},
}


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What a kernel takes on one architecture. `occupancy` is the share of a multiprocessor's warps."""

    kernel: str
    arch: int
    dtype: str
    width: int
    score: str
    biased: bool
    block_rows: int
    block_columns: int
    num_warps: int
    num_stages: int
    registers: int
    spill_bytes: int
    shared_bytes: int
    matrix: str
    programs_per_multiprocessor: int
    occupancy: float
    seconds: float


def compile_kernel(
    kernel: launch.Kernel, arch: int, dtype: str, width: int, *, score: str, biased: bool
) -> Compiled:
    """Compile one kernel at D = V = `width` in its default configuration.

    Raises:
        FreshetError: the kernels were made for the interpreter, or the code fits no such GPU.
    """
    if knobs.runtime.interpret:
        raise FreshetError("kernels cannot be compiled", hint="Unset TRITON_INTERPRET.")
    started = time.perf_counter()
    chosen = launch.configuration(kernel, width, DTYPES[dtype])
    compiled = triton.compile(
        _source(_KERNELS[kernel], chosen, dtype, width, score == "softmax", biased),
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": chosen.num_warps, "num_stages": chosen.num_stages},
    )
    registers, spill_bytes = _resources(compiled.asm["cubin"])
    shared_bytes = compiled.metadata.shared
    programs = _programs(arch, registers, shared_bytes, chosen.num_warps)
    return Compiled(
        kernel=kernel, arch=arch, dtype=dtype, width=width, score=score, biased=biased,
        **asdict(chosen),
        registers=registers, spill_bytes=spill_bytes, shared_bytes=shared_bytes,
        matrix=_matrix(compiled.asm["ptx"]), programs_per_multiprocessor=programs,
        occupancy=programs * chosen.num_warps / 64, seconds=round(time.perf_counter() - started, 2),
    )  # fmt: skip


def compile_all(
    archs: Sequence[int] = tuple(SHARED_KIB),
    dtypes: Sequence[str] = tuple(DTYPES),
    widths: Sequence[int] = WIDTHS,
    scores: Sequence[str] = ("silu", "softmax"),
) -> Iterator[Compiled]:
    """All kernels of attention with both biases, one after the other."""
    for kernel in get_args(launch.Kernel):
        for arch in archs:
            for dtype in dtypes:
                for width in widths:
                    for score in scores:
                        yield compile_kernel(kernel, arch, dtype, width, score=score, biased=True)


def _source(
    kernel: Any, chosen: launch.Configuration, dtype: str, width: int, softmax: bool, biased: bool
) -> ASTSource:
    constants = {
        "SOFTMAX": softmax, "HAS_BIAS": biased, "HAS_POSITIONS": biased,
        "NUM_BUCKETS": 64 if biased else 1, "BLOCK_BUCKETS": 64,
        "WIDTH": width, "VALUE_WIDTH": width, "BLOCK_WIDTH": width, "BLOCK_VALUE": width,
        "BLOCK_ROWS": chosen.block_rows, "BLOCK_COLUMNS": chosen.block_columns,
    }  # fmt: skip
    types = _ARGUMENTS | dict.fromkeys(_FLOATS, f"*{dtype}")
    names = kernel.arg_names
    signature = {name: types.get(name, "constexpr") for name in names}
    # As at launch: pointers and strides that are multiples of 16 allow wide loads.
    aligned = [name for name in names if signature[name][0] == "*" or name[1:] in ("_row", "_head")]
    return ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={name: value for name, value in constants.items() if name in names},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers a thread and bytes of its stack: these kernels have no other use of it than spills."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run(
            [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
    usage = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", said)}
    if "REG" not in usage:
        raise FreshetError("cuobjdump tells no registers", detail=said)
    return usage["REG"], usage["STACK"] + usage["LOCAL"]


def _matrix(ptx: str) -> str:
    return next((name for name, pattern in _MATRIX.items() if re.search(pattern, ptx)), "none")


def _programs(arch: int, registers: int, shared_bytes: int, num_warps: int) -> int:
    """How many programs a multiprocessor holds: 64 warps, 65,536 registers in steps of 256 a warp."""
    in_all, largest = (1024 * kib for kib in SHARED_KIB[arch])
    if shared_bytes > largest:
        return 0
    by_registers = 65_536 // (-(-registers * 32 // 256) * 256) // num_warps
    return min(64 // num_warps, by_registers, in_all // (shared_bytes + 1024))


def table(rows: Sequence[Compiled]) -> str:
    """The generated page."""
    ptxas, blackwell = knobs.nvidia.ptxas.version, knobs.nvidia.ptxas_blackwell.version
    header = f"""# What the kernels take, by architecture

Generated by `make kernels-aot`, without a GPU: D = V, both biases, 64 time buckets, default
configurations. Triton {triton.__version__}, ptxas {ptxas} (sm_100: {blackwell}), {datetime.now(UTC):%Y-%m-%d}.

Spills are bytes a thread; shared memory is KiB a program; occupancy is the share of a
multiprocessor's 64 warps that fits.

| kernel | sm | type | D | score | rows x columns | warps | stages | registers | spills | shared | matrix | occupancy |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
"""
    return header + "".join(
        f"| {row.kernel} | {row.arch} | {row.dtype} | {row.width} | {row.score} "
        f"| {row.block_rows} x {row.block_columns} | {row.num_warps} | {row.num_stages} "
        f"| {row.registers} | {row.spill_bytes} | {row.shared_bytes / 1024:.0f} "
        f"| {row.matrix} | {100 * row.occupancy:.0f} % |\n"
        for row in rows
    )


def main() -> None:
    """Compile, print a line each, write the page and the figures."""
    parser = argparse.ArgumentParser(prog="python -m kernels.aot", description=__doc__)
    parser.add_argument("--json", action="store_true", help="silu in bf16 only, as JSON on stdout")
    if parser.parse_args().json:
        rows = [
            *compile_all(archs=(80, 90), dtypes=("bf16",), scores=("silu",)),
            *compile_all(archs=(100,), dtypes=("bf16",), scores=("silu",), widths=(64,)),
        ]
        print(json.dumps([asdict(row) for row in rows]))
        return
    rows = []
    for row in compile_all():
        rows.append(row)
        print(row, flush=True)
    TABLE.write_text(table(rows))
    FIGURES.parent.mkdir(parents=True, exist_ok=True)
    FIGURES.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
