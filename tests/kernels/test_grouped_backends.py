"""Grouped linear, grouped norm and norm times gate: every backend against the reference.

The same cases run on the processor and, in a process of their own, in Triton's interpreter and on a GPU:
Triton decides at its import which it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.grouped_linear.reference import reference as linear_reference
from kernels.grouped_norm import dispatch as norm_dispatch
from kernels.grouped_norm.reference import reference as norm_reference
from kernels.groups import sort_groups
from tests.project.sources import ROOT

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
TRITON = INTERPRETED or os.environ.get("FRESHET_TEST_BACKEND") == "triton"
DEVICE = torch.device("cuda" if TRITON and not INTERPRETED else "cpu")
NUM_GROUPS, HEADS, WIDTH, OUT = 4, 2, 9, 21
ROWS = [0, 1, 63] if INTERPRETED else [0, 1, 63, 97, 1025]
OPERATIONS = ["linear", "linear without bias", "layer norm", "rms norm", "norm gate", "gate only"]
LEAVES = {"linear": ["x", "weight", "bias"], "norm": ["x", "gate", "weight", "bias"]}
Case = dict[str, Any]


def backend_of(operation: str) -> Callable[..., Tensor]:
    if operation == "linear":
        if TRITON:
            from kernels.grouped_linear.triton import linear

            return linear
        from kernels.grouped_linear.cpu import linear as linear_cpu

        return linear_cpu
    return norm_dispatch._norm_triton if TRITON else norm_dispatch._norm_cpu


def definition_of(operation: str) -> Callable[..., Tensor]:
    return linear_reference if operation == "linear" else norm_reference


def make_case(operation: str, num_rows: int, seed: int = 0) -> Case:
    """Group 2 never occurs; of one group there are more rows than of all others."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    group = torch.tensor([0, 1, 1, 1, 1, 3])[torch.randint(0, 6, (num_rows,), generator=generator)]
    if operation.startswith("linear"):
        order, offsets = sort_groups(group, NUM_GROUPS)
        return {
            "operation": "linear",
            "x": normal(num_rows, WIDTH),
            "weight": normal(NUM_GROUPS, WIDTH, OUT),
            "bias": None if operation == "linear without bias" else normal(NUM_GROUPS, OUT),
            "order": order,
            "offsets": offsets,
        }
    grouped = operation in ("layer norm", "rms norm")
    order, offsets = sort_groups(group, NUM_GROUPS) if grouped else (None, None)
    num_groups = NUM_GROUPS if grouped else 1
    return {
        "operation": "norm",
        "x": normal(num_rows, HEADS, WIDTH) + 0.5,
        # A view, as the gate is of everything a layer projects.
        "gate": None if grouped else normal(num_rows, HEADS, 2 * WIDTH)[:, :, :WIDTH],
        "weight": normal(num_groups, HEADS * WIDTH),
        "bias": None if operation == "gate only" else normal(num_groups, HEADS * WIDTH),
        "order": order,
        "offsets": offsets,
        "rms": operation == "rms norm",
        "epsilon": 1e-5,
    }


def run(
    function: Callable[..., Tensor],
    case: Case,
    dtype: torch.dtype,
    slope_dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """The output and all gradients; the output's own gradient depends on its shape alone."""
    moved = {
        name: each.to(DEVICE, dtype if each.is_floating_point() else None)
        if isinstance(each, Tensor)
        else each
        for name, each in case.items()
        if name != "operation"
    }
    names = [name for name in LEAVES[case["operation"]] if moved[name] is not None]
    for name in names:
        # Like this a view stays a view.
        moved[name] = moved[name].detach().requires_grad_()
    out = function(*moved.values())
    slope = torch.sin(torch.arange(out.numel(), dtype=torch.float64)).view(out.shape)
    out.backward(slope.to(slope_dtype).to(DEVICE, dtype))
    return {"out": out.detach()} | {name: moved[name].grad for name in names}


def row_leaves(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: each for name, each in found.items() if name in ("out", "x", "gate")}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("num_rows", ROWS)
def test_it_errs_at_most_twice_as_much_as_the_definition_in_its_precision(
    operation: str, num_rows: int
) -> None:
    case = make_case(operation, num_rows)
    definition = definition_of(case["operation"])
    truth = run(definition, case, torch.float64)
    plain = run(definition, case, torch.float32)
    fast = run(backend_of(case["operation"]), case, torch.float32)
    assert fast.keys() == truth.keys()
    for name, exact in truth.items():
        assert fast[name].shape == exact.shape
        if not exact.numel():
            continue
        unit = torch.finfo(torch.float32).eps * exact.abs().max()
        allowed = 2 * (plain[name] - exact).abs().max() + 2 * unit
        assert (fast[name] - exact).abs().max() <= allowed, name


@pytest.mark.skipif(TRITON, reason="Triton's tiles, and so its order of sums, depend on the type")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_half_precision_is_that_of_inputs_and_results_alone(
    operation: str, dtype: torch.dtype
) -> None:
    case = make_case(operation, 97)
    rounded = {
        name: each.to(dtype) if isinstance(each, Tensor) and each.is_floating_point() else each
        for name, each in case.items()
    }
    half = run(backend_of(case["operation"]), rounded, dtype, dtype)
    wide = run(backend_of(case["operation"]), rounded, torch.float32, dtype)
    for name, expected in wide.items():
        assert torch.equal(half[name], expected.to(dtype)), name


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_row_gets_the_same_bits_alone_and_in_company(operation: str) -> None:
    case = make_case(operation, 97)
    whole = row_leaves(run(backend_of(case["operation"]), case, torch.float32))
    kept = torch.tensor([5, 8, 40, 41, 96])
    slope = torch.sin(torch.arange(whole["out"].numel(), dtype=torch.float64))
    slope = slope.view(whole["out"].shape)[kept].to(DEVICE, torch.float32)
    part = dict(case)
    if case["order"] is not None:
        sizes = case["offsets"].diff()
        group = torch.empty(97, dtype=torch.int64)
        group[case["order"]] = torch.repeat_interleave(torch.arange(NUM_GROUPS), sizes)
        part["order"], part["offsets"] = sort_groups(group[kept], NUM_GROUPS)
    arguments = {}
    for name, each in part.items():
        rows = name in ("x", "gate") and each is not None
        arguments[name] = each[kept] if rows else each
    arguments = {
        name: each.to(DEVICE) if isinstance(each, Tensor) else each
        for name, each in arguments.items()
        if name != "operation"
    }
    leaves = {name: arguments[name].requires_grad_() for name in whole if name != "out"}
    out = backend_of(case["operation"])(*arguments.values())
    out.backward(slope)
    found = {"out": out.detach()} | {name: leaf.grad for name, leaf in leaves.items()}
    for name, each in row_leaves(found).items():
        expected = whole[name][kept]
        if INTERPRETED and case["operation"] == "linear":
            # NumPy multiplies for the interpreter, and rounds by a row's place.
            torch.testing.assert_close(each, expected)
        else:
            assert torch.equal(each, expected), name


@pytest.mark.parametrize("operation", OPERATIONS)
def test_two_runs_give_the_same_bits(operation: str) -> None:
    case = make_case(operation, 97)
    one, two = (run(backend_of(case["operation"]), case, torch.float32) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_nan_stays_in_its_row_and_its_group(operation: str) -> None:
    case = make_case(operation, 63)
    clean = run(backend_of(case["operation"]), case, torch.float32)
    case["x"][7] = torch.nan
    if len(case["weight"]) > 1:
        case["weight"][2] = torch.nan
    poisoned = run(backend_of(case["operation"]), case, torch.float32)
    others = torch.arange(63) != 7
    assert poisoned["out"][7].isnan().any()
    for name, each in row_leaves(clean).items():
        assert torch.equal(each[others], poisoned[name][others]), name
    if len(case["weight"]) > 1:
        own = int(
            torch.searchsorted(case["offsets"][1:], int((case["order"] == 7).nonzero()), right=True)
        )
        kept = torch.tensor([g for g in range(NUM_GROUPS) if g != own])
        assert torch.equal(clean["weight"][kept], poisoned["weight"][kept])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_group_without_rows_gets_a_gradient_of_zero(operation: str) -> None:
    case = make_case(operation, 1)
    found = run(backend_of(case["operation"]), case, torch.float32)
    if len(case["weight"]) > 1:
        assert not found["weight"][2].any()
        assert found["weight"].any()


def run_as_triton(environment: dict[str, str]) -> str:
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__],
        cwd=ROOT, env=kept | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


if not TRITON:

    def test_triton_in_the_interpreter() -> None:
        assert " passed" in run_as_triton({"TRITON_INTERPRET": "1"})

    def test_triton_on_the_gpu() -> None:
        if not torch.cuda.is_available():
            pytest.skip("there is no GPU: Triton's kernels have only been interpreted and compiled")
        assert " passed" in run_as_triton({"FRESHET_TEST_BACKEND": "triton"})
