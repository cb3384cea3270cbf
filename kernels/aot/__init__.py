"""Triton kernels compiled for GPUs that are not here: registers, spills, memory, occupancy."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ingest.runtime.errors import FreshetError

ARCHS = (80, 90, 100)
# Shared memory of one multiprocessor, and the most one program may take, in KiB.
SHARED_KIB = {80: (164, 163), 90: (228, 227), 100: (228, 227)}
MATRIX_UNITS = {80: "mma", 90: "wgmma", 100: "tcgen05"}
_MATRIX = {
    "wgmma": r"wgmma\.mma_async",
    "tcgen05": r"tcgen05\.mma",
    "mma": r"(?<!w)(?<!5)\bmma\.sync",
}


@dataclass(frozen=True, kw_only=True)
class AotCase:
    """One kernel as it is launched on one architecture; an op yields its own (`__main__.OPS`).

    `types` names every argument that is no constant ("*bf16", "*i64", "i32", "fp32"; of a NamedTuple
    argument, that NamedTuple of types); `constants` the others. Pointers and the arguments in
    `multiples_of_16` (of a NamedTuple, "q.row_stride") are told to be just that, as at launch.
    `shape`, `variant` and `tile` are cells of the table. `uses_matrix_units` is what the test expects.
    """

    op: str
    name: str
    kernel: Any
    arch: int
    dtype: str
    shape: str
    types: Mapping[str, Any]
    constants: Mapping[str, Any]
    num_warps: int
    num_stages: int
    max_registers: int | None = None
    variant: str = ""
    tile: str = ""
    multiples_of_16: frozenset[str] = frozenset()
    uses_matrix_units: bool = False

    @property
    def title(self) -> str:
        """What `--only` is matched with."""
        parts = (f"{self.op}.{self.name}", f"sm_{self.arch}", self.dtype, self.shape, self.variant)
        return " ".join(part for part in parts if part)


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What a kernel takes. `occupancy` is the share of a multiprocessor's warps that fits."""

    title: str
    op: str
    kernel: str
    arch: int
    dtype: str
    shape: str
    variant: str
    tile: str
    num_warps: int
    num_stages: int
    uses_matrix_units: bool
    registers: int
    spill_bytes: int
    shared_bytes: int
    matrix: str
    adds_atomically: bool
    programs_per_multiprocessor: int
    occupancy: float


def compile_case(case: AotCase) -> Compiled:
    """Compile one kernel and read what it takes out of the result.

    Raises:
        FreshetError: the kernels were made for the interpreter, or the code fits no such GPU.
    """
    if knobs.runtime.interpret:
        raise FreshetError("kernels cannot be compiled", hint="Unset TRITON_INTERPRET.")
    compiled = triton.compile(
        _source(case),
        target=GPUTarget("cuda", case.arch, 32),
        options={
            "num_warps": case.num_warps,
            "num_stages": case.num_stages,
            "maxnreg": case.max_registers,
        },
    )
    registers, spill_bytes = _resources(compiled.asm["cubin"])
    shared_bytes, ptx = compiled.metadata.shared, compiled.asm["ptx"]
    programs = programs_per_multiprocessor(case.arch, registers, shared_bytes, case.num_warps)
    return Compiled(
        title=case.title, op=case.op, kernel=case.name, arch=case.arch, dtype=case.dtype,
        shape=case.shape, variant=case.variant, tile=case.tile, num_warps=case.num_warps,
        num_stages=case.num_stages, uses_matrix_units=case.uses_matrix_units,
        registers=registers, spill_bytes=spill_bytes, shared_bytes=shared_bytes,
        matrix=_matrix(ptx), adds_atomically=bool(re.search(r"\b(atom|red)\.", ptx)),
        programs_per_multiprocessor=programs, occupancy=programs * case.num_warps / 64,
    )  # fmt: skip


def programs_per_multiprocessor(
    arch: int, registers: int, shared_bytes: int, num_warps: int
) -> int:
    """How many programs a multiprocessor holds: 64 warps, 65,536 registers in steps of 256 a warp."""
    in_all, largest = (1024 * kib for kib in SHARED_KIB[arch])
    if shared_bytes > largest:
        return 0
    by_registers = 65_536 // (-(-registers * 32 // 256) * 256) // num_warps
    return min(64 // num_warps, by_registers, in_all // (shared_bytes + 1024))


def _source(case: AotCase) -> ASTSource:
    names = case.kernel.arg_names
    missing = set(names) - {*case.types, *case.constants}
    if missing:
        raise FreshetError(f"{case.title} names no type of {', '.join(sorted(missing))}")
    signature = {name: case.types.get(name, "constexpr") for name in names}
    return ASTSource(
        fn=case.kernel,
        signature=signature,
        constexprs={name: case.constants[name] for name in names if name not in case.types},
        attrs={
            path: [["tt.divisibility", 16]]
            for path, name, kind in _leaves(signature)
            if kind[0] == "*" or name in case.multiples_of_16
        },
    )


def _leaves(signature: Mapping[str, Any]) -> Iterator[tuple[tuple[int, ...], str, str]]:
    for at, (name, kind) in enumerate(signature.items()):
        if isinstance(kind, str):
            yield (at,), name, kind
            continue
        for inner, (field, leaf) in enumerate(kind._asdict().items()):
            yield (at, inner), f"{name}.{field}", leaf


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
