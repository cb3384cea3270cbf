"""New rows against cached keys and values give the rows that a full pass gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import intervals
from kernels.interval_attention import interval_attention
from kernels.jagged import offsets_of, positions_of
from tests.kernels.attention_cases import make_case
from tests.kernels.masks import MASKS

backends = pytest.mark.parametrize("backend", ["reference", "cpu"])
users = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6)), max_size=4)
APPEND_EXACT = ["causal", "sliding_window", "semi_local", "truncated"]


def lengths_of(users: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    return torch.tensor(users, dtype=torch.int64).reshape(-1, 2).unbind(1)


def only(case: dict[str, Any], rows: Tensor, num_rows: Tensor) -> dict[str, Any]:
    """The same columns, but of the rows only those."""
    named = ("q", "intervals", "q_positions", "q_times_ms")
    return case | {name: case[name][rows] for name in named} | {"q_offsets": offsets_of(num_rows)}


def assert_delta_gives_rows_of_the_whole(case: dict[str, Any], new: Tensor, num: Tensor) -> None:
    expected = interval_attention(**case)[new]
    found = interval_attention(**only(case, new, num))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@backends
@settings(max_examples=25, deadline=None)
@given(
    users, st.sampled_from(["silu", "softmax"]), st.sampled_from(APPEND_EXACT), st.integers(0, 99)
)
def test_appended_rows_are_the_last_rows_of_a_full_pass(
    backend: str, users: list[tuple[int, int]], score: str, mask: str, seed: int
) -> None:
    cached, appended = lengths_of(users)
    total = cached + appended
    case = make_case(total.tolist(), [0] * len(users), score=score, seed=seed, backend=backend)
    case["intervals"] = MASKS[mask](total)
    new = positions_of(total) >= torch.repeat_interleave(cached, total)
    assert_delta_gives_rows_of_the_whole(case, new, appended)


@backends
@settings(max_examples=25, deadline=None)
@given(users, st.sampled_from(["silu", "softmax"]), st.integers(0, 99))
def test_candidates_are_the_target_rows_of_a_full_pass(
    backend: str, users: list[tuple[int, int]], score: str, seed: int
) -> None:
    history, num_candidates = lengths_of(users)
    total = history + num_candidates
    case = make_case(
        total.tolist(), num_candidates.tolist(), score=score, seed=seed, backend=backend
    )
    # Each is scored as if it came next.
    past = torch.repeat_interleave(history, total)
    case["q_positions"] = positions_of(total).minimum(past)
    new = positions_of(total) >= past
    assert torch.equal(case["intervals"][new], intervals.candidates(history, num_candidates))
    assert_delta_gives_rows_of_the_whole(case, new, num_candidates)


@backends
@pytest.mark.parametrize("score", ["silu", "softmax"])
def test_rows_of_the_cache_stay_as_they_were(score: str, backend: str) -> None:
    case = make_case([50, 7], [0, 0], score=score, backend=backend)
    case["intervals"] = MASKS["truncated"](torch.tensor([50, 7]))
    before = torch.cat([torch.arange(44), torch.arange(50, 55)])
    lengths = torch.tensor([44, 5])
    prefix = only(case, before, lengths)
    prefix |= {name: case[name][before] for name in ("k", "v", "kv_times_ms")}
    prefix["kv_offsets"] = offsets_of(lengths)
    expected, found = interval_attention(**case)[before], interval_attention(**prefix)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
