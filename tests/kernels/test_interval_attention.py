"""Interval attention against its definition, one loop per number."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ingest.runtime.errors import FreshetError
from kernels import intervals as masks
from kernels.interval_attention import interval_attention
from kernels.interval_attention.bias import time_bucket
from kernels.jagged import offsets_of, positions_of

backends = pytest.mark.parametrize("backend", ["reference", "cpu"])

HEADS, WIDTH, VALUE_WIDTH, NUM_POSITIONS, NUM_BUCKETS = 2, 3, 5, 6, 9


def dense_loop(case: dict[str, Any]) -> Tensor:
    """The formula, row by row and column by column."""
    q, k, v = case["q"], case["k"], case["v"]
    rows = []
    for user, (lo, hi) in enumerate(zip(case["q_offsets"], case["q_offsets"][1:], strict=False)):
        start = int(case["kv_offsets"][user])
        for row in range(int(lo), int(hi)):
            a0, b0, a1, b1 = case["intervals"][row].tolist()
            columns = [*range(a0, b0), *range(a1, b1)]
            rows.append(dense_row(case, q[row], k[start:], v[start:], row, columns, start))
    return torch.stack(rows) if rows else q.new_zeros(0, HEADS, v.shape[2])


def dense_row(
    case: dict[str, Any],
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    row: int,
    columns: list[int],
    start: int,
) -> Tensor:
    result = query.new_zeros(HEADS, values.shape[2])
    if not columns:
        return result
    for head in range(HEADS):
        scores = []
        for j in columns:
            score = case["scale"] * (query[head] @ keys[j, head])
            if "position_bias" in case:
                distance = int(case["q_positions"][row]) - j
                score = score + case["position_bias"][min(max(distance, 0), NUM_POSITIONS - 1)]
            if "time_bias" in case:
                elapsed = int(case["q_times_ms"][row]) - int(case["kv_times_ms"][start + j])
                bucket = math.floor(math.log(max(1.0, elapsed / 1000)) / 0.301)
                score = score + case["time_bias"][min(bucket, NUM_BUCKETS - 1)]
            scores.append(score)
        stacked = torch.stack(scores)
        if case["score"] == "silu":
            weights = stacked * stacked.sigmoid() / case["divisor"]
        else:
            weights = stacked.exp() / stacked.exp().sum()
        result[head] = weights @ values[columns, head]
    return result


def make_case(
    lengths: list[int],
    targets: list[int],
    *,
    score: str = "silu",
    biased: bool = True,
    delta: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    backend: str = "auto",
) -> dict[str, Any]:
    """Users of `lengths` tokens, the last `targets` of them targets; delta computes only these."""
    generator = torch.Generator().manual_seed(seed)
    total, num_targets = (
        torch.tensor(numbers, dtype=torch.int64) for numbers in (lengths, targets)
    )
    rows = num_targets if delta else total
    num_rows, num_columns = int(rows.sum()), int(total.sum())

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    case: dict[str, Any] = {
        "q": normal(num_rows, HEADS, WIDTH),
        "k": normal(num_columns, HEADS, WIDTH),
        "v": normal(num_columns, HEADS, VALUE_WIDTH),
        "q_offsets": offsets_of(rows),
        "kv_offsets": offsets_of(total),
        "intervals": masks.candidates(total - num_targets, num_targets)
        if delta
        else masks.target_aware(total, num_targets),
        "score": score,
        "scale": 0.7,
        "backend": backend,
    }
    if score == "silu":
        case["divisor"] = 11.0
    if biased:
        case |= {
            "position_bias": normal(NUM_POSITIONS),
            "time_bias": normal(NUM_BUCKETS),
            "q_positions": torch.repeat_interleave(total - num_targets, rows)
            if delta
            else positions_of(total),
            "q_times_ms": torch.randint(0, 40_000, (num_rows,), generator=generator),
            "kv_times_ms": torch.randint(0, 40_000, (num_columns,), generator=generator),
        }
    return case


@backends
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 3)), max_size=4),
    st.sampled_from(["silu", "softmax"]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 1000),
)
def test_it_equals_the_dense_loop(
    backend: str, users: list[tuple[int, int]], score: str, biased: bool, delta: bool, seed: int
) -> None:
    case = make_case(
        [sum(user) for user in users], [user[1] for user in users],
        score=score, biased=biased, delta=delta, seed=seed, backend=backend,
    )  # fmt: skip
    torch.testing.assert_close(interval_attention(**case), dense_loop(case), rtol=1e-10, atol=1e-12)


@backends
@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(["silu", "softmax"]))
def test_it_equals_the_dense_loop_for_any_two_intervals(
    backend: str, data: st.DataObject, score: str
) -> None:
    case = make_case([6, 1, 4], [0, 0, 0], score=score, backend=backend)
    for row, columns in enumerate([6] * 6 + [1] + [4] * 4):
        cuts = sorted(data.draw(st.lists(st.integers(0, columns), min_size=4, max_size=4)))
        order = data.draw(st.sampled_from([[0, 1, 2, 3], [2, 3, 0, 1]]))
        case["intervals"][row] = torch.tensor(cuts)[order].int()
    torch.testing.assert_close(interval_attention(**case), dense_loop(case), rtol=1e-10, atol=1e-12)


@backends
@pytest.mark.parametrize("lengths", [[33, 32, 31, 97], [129, 1, 0, 161]])
def test_it_equals_the_dense_loop_where_padding_sizes_change(
    lengths: list[int], backend: str
) -> None:
    case = make_case(lengths, [min(length, 2) for length in lengths], backend=backend)
    torch.testing.assert_close(interval_attention(**case), dense_loop(case), rtol=1e-10, atol=1e-12)


@backends
@pytest.mark.parametrize("score", ["silu", "softmax"])
@pytest.mark.parametrize("delta", [False, True])
def test_its_gradients_are_those_of_the_function(score: str, delta: bool, backend: str) -> None:
    case = make_case([3, 0, 1], [1, 0, 1], score=score, delta=delta, backend=backend)
    names = ["q", "k", "v", "position_bias", "time_bias"]
    inputs = [case[name].requires_grad_() for name in names]

    def attend(*values: Tensor) -> Tensor:
        return interval_attention(**(case | dict(zip(names, values, strict=True))))

    assert torch.autograd.gradcheck(attend, inputs)


@backends
@pytest.mark.parametrize("score", ["silu", "softmax"])
def test_a_row_that_sees_nothing_gives_zero_and_takes_no_gradient(score: str, backend: str) -> None:
    case = make_case([4], [0], score=score, backend=backend)
    case["intervals"][2] = 0
    case["q"].requires_grad_()
    result = interval_attention(**case)
    result.sum().backward()
    assert not result[2].any()
    assert not case["q"].grad[2].any()
    assert case["q"].grad.isfinite().all()


@backends
@pytest.mark.parametrize("score", ["silu", "softmax"])
def test_nan_stays_in_its_own_sequence_in_both_directions(score: str, backend: str) -> None:
    case = make_case([5, 3, 9], [1, 1, 1], score=score, backend=backend)
    expected = interval_attention(**case)
    for name in ("q", "k", "v"):
        case[name] = case[name].clone()
        case[name][5:8] = torch.nan
        case[name].requires_grad_()
    result = interval_attention(**case)
    result[[*range(5), *range(8, 17)]].sum().backward()
    assert result[5:8].isnan().all()
    assert torch.equal(result[:5], expected[:5])
    assert torch.equal(result[8:], expected[8:])
    for name in ("q", "k", "v"):
        assert case[name].grad[[*range(5), *range(8, 17)]].isfinite().all()


def test_memory_it_takes_uninitialised_never_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case([5, 0, 40], [1, 0, 3], backend="reference")
    expected = interval_attention(**case)
    monkeypatch.setattr(torch, "empty", lambda *a, **k: torch.full(a, torch.nan, **k))
    assert torch.equal(interval_attention(**case), expected)


@backends
@pytest.mark.parametrize("score", ["silu", "softmax"])
def test_a_sequence_alone_gives_the_very_bits_it_gives_in_company(score: str, backend: str) -> None:
    lengths, targets = [150, 17, 0, 64, 144, 1, 64], [16, 3, 0, 5, 16, 1, 5]
    together = make_case(lengths, targets, score=score, dtype=torch.float32, backend=backend)
    expected = interval_attention(**together).split(lengths)
    for user, length in enumerate(lengths):
        lo = sum(lengths[:user])
        own = slice(lo, lo + length)
        alone = together | {"q_offsets": torch.tensor([0, length])}
        alone["kv_offsets"] = alone["q_offsets"]
        for name in ("q", "k", "v", "intervals", "q_positions", "q_times_ms", "kv_times_ms"):
            alone[name] = together[name][own]
        assert torch.equal(interval_attention(**alone), expected[user])


def test_time_buckets_are_the_formula_at_every_boundary() -> None:
    elapsed = torch.tensor([-1, 0, 999, 1000, 1351, 1352, 10**6, 10**12])
    expected = [min(math.floor(math.log(max(1, ms / 1000)) / 0.301), 63) for ms in elapsed.tolist()]
    assert time_bucket(elapsed, 64).tolist() == expected
    assert time_bucket(elapsed, 4).tolist() == [min(bucket, 3) for bucket in expected]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"q": torch.zeros(4, 2)}, "shape"),
        ({"k": torch.zeros(4, HEADS, WIDTH)}, "dtype"),
        ({"k": torch.zeros(4, HEADS, WIDTH + 1, dtype=torch.float64)}, "shape"),
        ({"v": torch.zeros(4, HEADS, WIDTH, dtype=torch.float64, device="meta")}, "device"),
        ({"score": "relu"}, "score"),
        ({"score": "softmax"}, "divisor"),
        ({"divisor": 0.0}, "divisor"),
        ({"scale": math.nan}, "scale"),
        ({"q_offsets": torch.tensor([0, 4], dtype=torch.int32)}, "q_offsets"),
        ({"q_offsets": torch.tensor([0, 3])}, "q_offsets"),
        ({"kv_offsets": torch.tensor([0, 5, 4])}, "kv_offsets"),
        ({"kv_offsets": torch.tensor([0, 4, 4])}, "kv_offsets"),
        ({"intervals": torch.zeros(4, 4)}, "intervals"),
        ({"intervals": torch.tensor([[0, 5, 0, 0]] * 4).int()}, "Row 0 has"),
        ({"intervals": torch.tensor([[-1, 1, 0, 0]] * 4).int()}, "Row 0 has"),
        ({"intervals": torch.tensor([[0, 2, 1, 3]] * 4).int()}, "disjoint"),
        ({"q_positions": torch.zeros(3, dtype=torch.int64)}, "q_positions"),
        ({"kv_times_ms": torch.zeros(4)}, "kv_times_ms"),
        ({"kv_times_ms": None}, "come together"),
        ({"position_bias": None}, "q_positions"),
        ({"time_bias": torch.zeros(0, dtype=torch.float64)}, "time_bias"),
    ],
)
def test_refusals_name_what_is_wrong(change: dict[str, Any], named: str) -> None:
    with pytest.raises(FreshetError, match=named):
        interval_attention(**(make_case([4], [1]) | change))
