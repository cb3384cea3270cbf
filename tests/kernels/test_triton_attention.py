"""Triton's attention where it can run: in the interpreter always, on a GPU where there is one.

Triton decides at its import whether kernels are interpreted, so each way is a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from ingest.runtime.errors import FreshetError
from kernels.interval_attention.bias import Bias
from kernels.interval_attention.triton import attend
from tests.benchmarks import bench_kernels_gpu
from tests.project.sources import ROOT

CASES = ROOT / "tests" / "kernels" / "triton_attention_cases.py"


def run_cases(environment: dict[str, str]) -> str:
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)],
        cwd=ROOT, env=kept | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(900)
def test_in_the_interpreter() -> None:
    assert " passed" in run_cases({"TRITON_INTERPRET": "1"})


@pytest.mark.timeout(900)
def test_on_the_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU: Triton's kernels have only been interpreted and compiled")
    assert " passed" in run_cases({})


def test_without_a_gpu_and_the_interpreter_the_device_is_refused() -> None:
    x, offsets = torch.zeros(1, 1, 16), torch.tensor([0, 1])
    with pytest.raises(FreshetError, match="refuses device"):
        attend(
            x, x, x, q_offsets=offsets, kv_offsets=offsets,
            intervals=torch.zeros(1, 4, dtype=torch.int32), score="silu", scale=1.0, divisor=1.0,
            bias=Bias(),
        )  # fmt: skip


def test_the_gpu_bench_without_a_gpu_measures_nothing_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench_kernels_gpu.main() == 2
    said = capsys.readouterr()
    assert "measured nothing: PyTorch sees no CUDA GPU" in said.err
    assert not said.out
