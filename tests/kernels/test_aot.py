"""The kernels compiled for GPUs that are not here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest

from kernels import aot
from tests.project.sources import ROOT

Row = dict[str, Any]


@pytest.fixture(scope="module")
def compiled() -> list[Row]:
    """silu in bf16, in a process of its own: compiled kernels cannot stand beside interpreted ones."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "kernels.aot", "--json"],
        cwd=ROOT, env=kept, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows: list[Row] = json.loads(done.stdout)
    return rows


def name_of(row: Row) -> str:
    return f"{row['kernel']} sm_{row['arch']} D={row['width']}"


def test_no_default_configuration_of_silu_spills(compiled: list[Row]) -> None:
    spilling = {name_of(row): row["spill_bytes"] for row in compiled if row["spill_bytes"]}
    assert not spilling


def test_matrix_products_run_on_the_matrix_units_of_their_architecture(
    compiled: list[Row],
) -> None:
    units = {80: "mma", 90: "wgmma", 100: "tcgen05"}
    assert {row["arch"] for row in compiled} == set(units)
    other = {name_of(row): row["matrix"] for row in compiled if row["matrix"] != units[row["arch"]]}
    assert not other


def test_every_kernel_fits_a_multiprocessor(compiled: list[Row]) -> None:
    assert all(row["programs_per_multiprocessor"] >= 1 for row in compiled)


def test_the_committed_page_is_of_the_configurations_in_use() -> None:
    rows = re.findall(
        r"^\| (\w+) \| (\d+) \| (\w+) \| (\d+) \| \w+ \| (\d+) x (\d+) \| (\d+) \| (\d+) ",
        aot.TABLE.read_text(),
        re.MULTILINE,
    )
    assert {int(row[1]) for row in rows} == set(aot.SHARED_KIB)
    for kernel, _, dtype, width, *numbers in rows:
        chosen = aot.launch.configuration(kernel, int(width), aot.DTYPES[dtype])
        assert list(vars(chosen).values()) == [int(number) for number in numbers], kernel


@pytest.mark.parametrize(
    ("registers", "shared_kib", "num_warps", "programs"),
    [
        (32, 1, 4, 16),
        (128, 1, 4, 4),
        (255, 1, 8, 1),
        (129, 1, 4, 3),
        (32, 100, 4, 2),
        (32, 240, 4, 0),
    ],
)
def test_occupancy_is_bound_by_the_scarcest(
    registers: int, shared_kib: int, num_warps: int, programs: int
) -> None:
    assert aot._programs(90, registers, shared_kib * 1024, num_warps) == programs
