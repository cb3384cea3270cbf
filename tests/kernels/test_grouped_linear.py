"""Grouped linear against one product per row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ingest.runtime.errors import FreshetError
from kernels.grouped_linear import grouped_linear

NUM_GROUPS, WIDTH, OUT = 3, 4, 2


def make_case(groups: list[int], biased: bool = True) -> dict[str, Any]:
    torch.manual_seed(len(groups))
    return {
        "x": torch.randn(len(groups), WIDTH, dtype=torch.float64),
        "weight": torch.randn(NUM_GROUPS, WIDTH, OUT, dtype=torch.float64),
        "bias": torch.randn(NUM_GROUPS, OUT, dtype=torch.float64) if biased else None,
        "group": torch.tensor(groups, dtype=torch.int64),
    }


@given(st.lists(st.integers(0, NUM_GROUPS - 1), max_size=9), st.booleans())
def test_every_row_is_multiplied_by_its_groups_weight(groups: list[int], biased: bool) -> None:
    case = make_case(groups, biased)
    result = grouped_linear(**case)
    assert result.shape == (len(groups), OUT)
    for row, group in enumerate(groups):
        expected = case["x"][row] @ case["weight"][group]
        expected = expected + case["bias"][group] if biased else expected
        torch.testing.assert_close(result[row], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", [[2, 0, 0, 2], [1], []])
def test_its_gradients_are_those_of_the_function(groups: list[int]) -> None:
    case = make_case(groups)
    inputs = [case[name].requires_grad_() for name in ("x", "weight", "bias")]
    assert torch.autograd.gradcheck(lambda *a: grouped_linear(*a, case["group"]), inputs)


def test_nan_in_a_weight_nobody_picks_never_shows() -> None:
    case = make_case([0, 2, 0])
    case["weight"][1] = torch.nan
    assert grouped_linear(**case).isfinite().all()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"x": torch.zeros(2, WIDTH + 1, dtype=torch.float64)}, "shape"),
        ({"x": torch.zeros(2, WIDTH)}, "dtype"),
        ({"bias": torch.zeros(OUT, dtype=torch.float64)}, "bias"),
        ({"group": torch.tensor([0, NUM_GROUPS])}, "group"),
        ({"group": torch.tensor([0, -1])}, "group"),
        ({"group": torch.tensor([0, 1], dtype=torch.int32)}, "group"),
        ({"group": torch.zeros(2, dtype=torch.int64, device="meta")}, "group.*meta"),
        ({"backend": "nosuch"}, "backend.*'cpu'"),
    ],
)
def test_refusals_name_what_is_wrong(change: dict[str, Any], named: str) -> None:
    with pytest.raises(FreshetError, match=named):
        grouped_linear(**(make_case([0, 1]) | change))
