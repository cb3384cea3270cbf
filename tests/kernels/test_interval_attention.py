"""Interval attention against its definition, one loop per number."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.interval_attention import interval_attention
from kernels.interval_attention.bias import time_bucket
from tests.kernels.attention_cases import TRAINED, dense_loop, make_case

backends = pytest.mark.parametrize("backend", ["reference", "cpu"])


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
    inputs = [case[name].requires_grad_() for name in TRAINED]

    def attend(*values: Tensor) -> Tensor:
        return interval_attention(**(case | dict(zip(TRAINED, values, strict=True))))

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
def test_no_rows_have_gradients_too(backend: str) -> None:
    case = make_case([0, 4], [0, 0], backend=backend)
    case |= {name: case[name][:0] for name in ("q", "intervals", "q_positions", "q_times_ms")}
    case["q_offsets"] = torch.tensor([0, 0, 0])
    leaves = [case[name].requires_grad_() for name in TRAINED]
    gradients = torch.autograd.grad(interval_attention(**case).sum(), leaves)
    assert [x.shape for x in gradients] == [x.shape for x in leaves]
    assert not any(x.any() for x in gradients)


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
    together = make_case(
        lengths, targets, score=score, dtype=torch.float32, backend=backend, widths=(16, 16)
    )
    expected = [x.split(lengths) for x in output_and_gradients(together)]
    for user, length in enumerate(lengths):
        lo = sum(lengths[:user])
        own = slice(lo, lo + length)
        alone = together | {"q_offsets": torch.tensor([0, length])}
        alone["kv_offsets"] = alone["q_offsets"]
        for name in ("q", "k", "v", "intervals", "q_positions", "q_times_ms", "kv_times_ms"):
            alone[name] = together[name][own]
        for found, whole in zip(output_and_gradients(alone), expected, strict=True):
            assert torch.equal(found, whole[user])


def output_and_gradients(case: dict[str, Any]) -> list[Tensor]:
    """What belongs to rows: the tables' gradients are sums over the batch."""
    leaves = {name: case[name].detach().requires_grad_() for name in "qkv"}
    output = interval_attention(**(case | leaves))
    return [output, *torch.autograd.grad(output.square().sum(), list(leaves.values()))]


def test_time_buckets_are_the_formula_at_every_boundary() -> None:
    elapsed = torch.tensor([-1, 0, 999, 1000, 1351, 1352, 10**6, 10**12])
    expected = [min(math.floor(math.log(max(1, ms / 1000)) / 0.301), 63) for ms in elapsed.tolist()]
    assert time_bucket(elapsed, 64).tolist() == expected
    assert time_bucket(elapsed, 4).tolist() == [min(bucket, 3) for bucket in expected]
