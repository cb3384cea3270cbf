"""The C++ of all kernels as one library: `python -m kernels.library` compiles it, `load` loads it."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

from ingest.runtime.errors import FreshetError

ROOT = Path(__file__).parents[1]
BUILD_DIR = ROOT / "build" / "kernels"
_FLAGS = (
    "-std=c++20", "-O3", "-march=native", "-fopenmp", "-fPIC", "-fvisibility=hidden", "-DNDEBUG",
    "-Wall", "-Wno-unknown-pragmas", "-Wno-psabi",
)  # fmt: skip
_HINT = 'run `make kernels`, which needs g++ (apt-get install g++), or choose backend="reference"'


@torch.compiler.assume_constant_result
def load() -> None:
    """Load what `build` left, which implements the operators of `freshet_cpu`; never compiles.

    Raises:
        FreshetError: the library is not built.
    """
    _load()


def library_path() -> Path:
    """Where the library of these sources, this PyTorch and this processor is, or would be.

    The name is a hash of all three, so a stale or foreign library is never taken.
    """
    digest = hashlib.sha256()
    for source in [*_sources("cpp"), *_sources("h")]:
        digest.update(str(source.relative_to(ROOT)).encode() + b"\0" + source.read_bytes())
    digest.update(" ".join((*_FLAGS, torch.__version__, _processor())).encode())
    return BUILD_DIR / f"kernels-{digest.hexdigest()[:16]}.so"


def built_library() -> Path:
    """The library `build` left.

    Raises:
        FreshetError: there is none for these sources, this PyTorch and this processor.
    """
    path = library_path()
    if not path.exists():
        raise FreshetError("the CPU kernels are not built", detail=f"No {path}.", hint=_HINT)
    return path


def build() -> Path:
    """Compile unless it is there already, a file on each core; CXX names the compiler.

    Raises:
        FreshetError: no compiler, or it failed.
    """
    path = library_path()
    if path.exists():
        return path
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    if shutil.which(compiler[0]) is None:
        raise FreshetError(
            "no C++ compiler for the CPU kernels", detail=f"{compiler[0]!r} not found.", hint=_HINT
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    # Elsewhere until it is whole: somebody may be loading it.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        commands, objects = [], []
        for index, source in enumerate(_sources("cpp")):
            objects.append(f"{folder}/{index}.o")
            commands.append([*compiler, *_FLAGS, *_torch_flags(), "-c", str(source), "-o"])
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands, objects))
        _run([*compiler, "-shared", "-fopenmp", *objects, *_link_flags(), "-o"], f"{folder}/all.so")
        Path(folder, "all.so").replace(path)
    return path


@cache
def _load() -> None:
    torch.ops.load_library(built_library())


def _run(command: list[str], output: str) -> None:
    done = subprocess.run([*command, output], capture_output=True, text=True, check=False)
    if done.returncode:
        raise FreshetError(
            "the CPU kernels do not compile", detail=done.stderr.strip()[-2000:], hint=_HINT
        )


def _sources(ending: str) -> list[Path]:
    return sorted(ROOT.glob(f"kernels/*/cpu/*.{ending}"))


def _torch_flags() -> list[str]:
    # Here, because who only loads the library should not wait for this import.
    from torch.utils import cpp_extension

    abi = int(torch.compiled_with_cxx11_abi())
    includes = [f"-isystem{path}" for path in cpp_extension.include_paths()]
    return [f"-D_GLIBCXX_USE_CXX11_ABI={abi}", f"-I{ROOT}", *includes]


def _link_flags() -> list[str]:
    from torch.utils import cpp_extension

    folders = [f"-L{path}" for path in cpp_extension.library_paths()]
    return [*folders, "-lc10", "-ltorch_cpu"]


def _processor() -> str:
    """What -march=native depends on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    known = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return " ".join([platform.machine(), *sorted(set(known))])


if __name__ == "__main__":
    print(build())
