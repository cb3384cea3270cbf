"""The kernels compiled for GPUs that are not here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from kernels import aot
from kernels.aot.__main__ import PAGE, cases
from tests.project.sources import ROOT

# Where registers are scarcest, of every kernel on every architecture. All others are on the page.
TESTED = (
    r"interval_attention\.\w+ sm_\d+ bf16 D=64 softmax",
    r"interval_attention\.\w+ sm_80 bf16 D=128 softmax",
    r"interval_attention\.forward sm_90 fp32 D=64 silu",
)
Row = dict[str, Any]


@pytest.fixture(scope="module")
def compiled() -> list[Row]:
    """In a process of its own: compiled kernels cannot stand beside interpreted ones."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "kernels.aot", "--json", "--only", "|".join(TESTED)],
        cwd=ROOT, env=kept, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    rows: list[Row] = json.loads(done.stdout)
    return rows


@pytest.fixture(scope="module")
def page() -> list[list[str]]:
    """The cells of every kernel of the committed page."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


@pytest.mark.timeout(900)
def test_no_default_configuration_spills(compiled: list[Row]) -> None:
    assert compiled
    assert not {row["title"]: row["spill_bytes"] for row in compiled if row["spill_bytes"]}


def test_matrix_products_run_on_the_matrix_units_of_their_architecture(
    compiled: list[Row],
) -> None:
    found = [row for row in compiled if row["uses_matrix_units"]]
    assert {row["arch"] for row in found} == set(aot.ARCHS)
    units = aot.MATRIX_UNITS
    assert not {row["title"]: row["matrix"] for row in found if row["matrix"] != units[row["arch"]]}


def test_no_kernel_adds_atomically(compiled: list[Row]) -> None:
    assert not [row["title"] for row in compiled if row["adds_atomically"]]


def test_every_kernel_fits_a_multiprocessor(compiled: list[Row]) -> None:
    assert all(row["programs_per_multiprocessor"] >= 1 for row in compiled)


def test_the_committed_page_is_of_the_configurations_in_use(page: list[list[str]]) -> None:
    wanted = [
        [
            case.op, case.name, str(case.arch), case.dtype, case.shape, case.variant, case.tile,
            str(case.num_warps), str(case.num_stages),
        ]
        for case in cases()
    ]  # fmt: skip
    assert [row[:9] for row in page] == wanted


def test_nothing_on_the_committed_page_spills_or_misses_the_matrix_units(
    page: list[list[str]],
) -> None:
    for row, case in zip(page, cases(), strict=True):
        spills, matrix, programs = row[10], row[12], row[13]
        assert (spills, programs == "0") == ("0", False), case.title
        if case.uses_matrix_units:
            assert matrix == aot.MATRIX_UNITS[case.arch], case.title


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
    found = aot.programs_per_multiprocessor(90, registers, shared_kib * 1024, num_warps)
    assert found == programs
