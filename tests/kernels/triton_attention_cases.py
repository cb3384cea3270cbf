"""What Triton's attention must do, on a GPU or in the interpreter; test_triton_attention.py runs it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ingest.runtime.errors import FreshetError
from kernels import intervals
from kernels.interval_attention.bias import Bias, checked_bias, time_bucket
from kernels.interval_attention.reference import reference
from kernels.interval_attention.triton import attend
from kernels.jagged import offsets_of, positions_of
from tests.kernels.masks import MASKS, Mask

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
NUM_POSITIONS, NUM_BUCKETS = 40, 12
NAMES = ("q", "k", "v", "position_bias", "time_bias")
Case = dict[str, Any]


def rows_of(lengths: Tensor) -> tuple[Tensor, Tensor]:
    return positions_of(lengths), torch.repeat_interleave(lengths, lengths)


def two(row: Tensor, *edges: Tensor | int) -> Tensor:
    columns = [edge if isinstance(edge, Tensor) else torch.full_like(row, edge) for edge in edges]
    columns += [torch.zeros_like(row)] * (4 - len(columns))
    return torch.stack(columns, dim=1).int()


def from_here_on(lengths: Tensor) -> Tensor:
    row, length = rows_of(lengths)
    return two(row, row, length)


def only_itself(lengths: Tensor) -> Tensor:
    row, _ = rows_of(lengths)
    return two(row, row, row + 1)


def far_apart_and_swapped(lengths: Tensor) -> Tensor:
    row, length = rows_of(lengths)
    return two(row, (length - 3).clamp(min=0), length, 0, (length - 3).clamp(min=0, max=2))


def every_other_row(lengths: Tensor) -> Tensor:
    return intervals.causal(lengths) * (1 - positions_of(lengths)[:, None].int() % 2)


HAND_BUILT = (from_here_on, far_apart_and_swapped, every_other_row)
ALL_MASKS = MASKS | {mask.__name__: mask for mask in HAND_BUILT}


def make_case(
    lengths: list[int],
    mask: Mask = MASKS["target_aware"],
    *,
    score: str = "silu",
    biased: tuple[bool, bool] = (True, True),
    widths: tuple[int, int] = (16, 16),
    heads: int = 2,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Case:
    generator = torch.Generator().manual_seed(seed)
    total = torch.tensor(lengths, dtype=torch.int64)
    num = int(total.sum())

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    def times() -> Tensor:
        return torch.randint(0, 40_000, (num,), generator=generator)

    width, value_width = widths
    return {
        "q": normal(num, heads, width),
        "k": normal(num, heads, width),
        "v": normal(num, heads, value_width),
        "position_bias": normal(NUM_POSITIONS) if biased[0] else None,
        "time_bias": normal(NUM_BUCKETS) if biased[1] else None,
        "q_positions": positions_of(total) if biased[0] else None,
        "q_times_ms": times() + 20_000 if biased[1] else None,
        "kv_times_ms": times() if biased[1] else None,
        "q_offsets": offsets_of(total),
        "kv_offsets": offsets_of(total),
        "intervals": mask(total),
        "out_gradient": normal(num, heads, value_width),
        "score": score,
        "scale": width**-0.5,
        "divisor": 13.0 if score == "silu" else 1.0,
    }


def run(function: Callable[..., Tensor], case: Case, dtype: torch.dtype | None = None) -> Case:
    """The output and the gradients of whatever the case has."""
    moved = {
        name: x.detach().to(DEVICE) if isinstance(x, Tensor) else x for name, x in case.items()
    }
    for name in (*NAMES, "out_gradient"):
        if moved[name] is not None:
            moved[name] = moved[name].to(dtype or moved[name].dtype)
    leaves = {name: moved[name].requires_grad_() for name in NAMES if moved[name] is not None}
    bias = checked_bias(
        *(moved[n] for n in (*NAMES[3:], "q_positions", "q_times_ms", "kv_times_ms")),
        q=moved["q"], k=moved["k"], offsets=moved["q_offsets"],
    )  # fmt: skip
    shared = ("q_offsets", "kv_offsets", "intervals", "score", "scale", "divisor")
    out = function(*(moved[n] for n in "qkv"), bias=bias, **{n: moved[n] for n in shared})
    gradients = torch.autograd.grad(out, list(leaves.values()), moved["out_gradient"])
    return {"out": out.detach(), **dict(zip(leaves, gradients, strict=True))}


def assert_as_good_as_pytorch(case: Case) -> None:
    """At most twice the error of the same formula in PyTorch, both against float64."""
    exact, ours, theirs = (
        run(reference, case, torch.float64),
        run(attend, case),
        run(reference, case),
    )
    for name, expected in exact.items():
        found = ours[name]
        assert found.dtype == case["q"].dtype
        assert found.isfinite().all(), name
        error, bound = (float((x.double() - expected).norm()) for x in (found, theirs[name]))
        # A bias gradient is what is left of a sum over all pairs: its rounding is that of the sum.
        size = case["out_gradient"].double() if name.endswith("_bias") else expected
        floor = 4 * torch.finfo(found.dtype).eps * float(size.norm()) + 1e-6
        assert error <= 2 * bound + floor, (name, error, bound, floor)


def assert_equal_bits(first: Case, second: Case) -> None:
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that a kernel is to write comes full of NaN (integers: of a number far outside)."""
    plain = torch.Tensor.new_empty

    def filled(x: Tensor) -> Tensor:
        return x.fill_(torch.nan) if x.is_floating_point() else x.fill_(2**29)

    def new_empty(self: Tensor, *size: Any, **options: Any) -> Tensor:
        return filled(plain(self, *size, **options))

    empty = torch.empty
    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)
    monkeypatch.setattr(torch, "empty", lambda *a, **options: filled(empty(*a, **options)))


@pytest.mark.parametrize("score", ["silu", "softmax"])
@pytest.mark.parametrize("mask", ALL_MASKS.values(), ids=ALL_MASKS.keys())
def test_every_mask(mask: Mask, score: str, poisoned: None) -> None:
    assert_as_good_as_pytorch(make_case([63, 0, 1], mask, score=score, heads=1))


@pytest.mark.parametrize("lengths", [[97, 0], [1]])
def test_every_length(lengths: list[int], poisoned: None) -> None:
    assert_as_good_as_pytorch(make_case(lengths))


def test_a_long_sequence(poisoned: None) -> None:
    case = make_case([1025], MASKS["semi_local"], biased=(False, False), heads=1)
    assert_as_good_as_pytorch(case)


@pytest.mark.parametrize("score", ["silu", "softmax"])
@pytest.mark.parametrize("biased", [(False, False), (True, False), (False, True)])
def test_with_either_bias_and_none(biased: tuple[bool, bool], score: str, poisoned: None) -> None:
    assert_as_good_as_pytorch(make_case([1, 40], score=score, biased=biased))


@pytest.mark.parametrize("widths", [(16, 256), (24, 40), (100, 64), (128, 7), (256, 130)])
def test_every_width(widths: tuple[int, int], poisoned: None) -> None:
    assert_as_good_as_pytorch(make_case([35, 2], widths=widths))


@pytest.mark.parametrize("score", ["silu", "softmax"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_half_precision(dtype: torch.dtype, score: str) -> None:
    if INTERPRETED and dtype == torch.bfloat16:
        with pytest.raises(FreshetError, match="refuses dtype"):
            run(attend, make_case([5], dtype=dtype))
        pytest.skip("bfloat16 needs a GPU: the interpreter cannot multiply it")
    assert_as_good_as_pytorch(make_case([97, 1], score=score, widths=(64, 64), dtype=dtype))


@pytest.mark.parametrize("lengths", [[], [0], [0, 0]])
def test_nothing_in_nothing_out(lengths: list[int]) -> None:
    ours = run(attend, make_case(lengths))
    assert ours["out"].shape == (0, 2, 16)
    assert not ours["time_bias"].any()


@pytest.mark.parametrize("score", ["silu", "softmax"])
def test_candidates_against_the_columns_of_a_history(score: str, poisoned: None) -> None:
    history, candidates = torch.tensor([40, 0]), torch.tensor([3, 34])
    case = make_case((history + candidates).tolist(), score=score)
    rows = torch.cat([
        start + past + torch.arange(int(num))
        for start, past, num in zip(case["q_offsets"][:-1], history, candidates, strict=True)
    ])  # fmt: skip
    for name in ("q", "q_times_ms", "out_gradient"):
        case[name] = case[name][rows]
    case["q_positions"] = torch.repeat_interleave(history, candidates)
    case["q_offsets"] = offsets_of(candidates)
    case["intervals"] = intervals.candidates(history, candidates)
    assert_as_good_as_pytorch(case)


def test_positions_anywhere_and_times_in_any_order() -> None:
    case = make_case([50])
    case["q_positions"] = torch.randint(-50, 300, (50,), generator=torch.Generator().manual_seed(3))
    assert_as_good_as_pytorch(case)


def test_time_buckets_are_those_of_the_reference_at_every_boundary() -> None:
    num_buckets = 64
    exact = [int(1000 * math.exp(0.301 * b)) + d for b in range(64) for d in range(-1, 3)]
    far = [-5, 0, 1, 999, 2**40, 2**61, 2**62, 2**62 + 1]
    elapsed = torch.tensor(exact + far)
    case = make_case([len(elapsed)], only_itself, biased=(False, True), heads=1)
    case["q"] *= 0
    case["v"][:] = 1
    case["time_bias"] = torch.arange(num_buckets) + 20.0
    case["q_times_ms"], case["kv_times_ms"] = elapsed, torch.zeros_like(elapsed)
    found = run(attend, case)["out"][:, 0, 0].cpu() * case["divisor"] - 20
    assert torch.equal(found.round().int(), time_bucket(elapsed, num_buckets))


@pytest.mark.parametrize("score", ["silu", "softmax"])
def test_a_run_repeats_bit_by_bit_and_alone_as_in_company(score: str, poisoned: None) -> None:
    lengths = [33, 1, 0, 7]
    case = make_case(lengths, score=score)
    together = run(attend, case)
    assert_equal_bits(together, run(attend, case))
    for user, length in enumerate(lengths):
        own = slice(sum(lengths[:user]), sum(lengths[: user + 1]))
        per_row = ("q", "k", "v", "q_positions", "q_times_ms", "kv_times_ms", "out_gradient")
        alone = case | {name: case[name][own] for name in (*per_row, "intervals")}
        alone["q_offsets"] = alone["kv_offsets"] = torch.tensor([0, length])
        found = run(attend, alone)
        for name in ("out", "q", "k", "v"):
            assert torch.equal(found[name], together[name][own]), (user, name)


@pytest.mark.parametrize("score", ["silu", "softmax"])
def test_nan_stays_in_its_own_sequence(score: str, poisoned: None) -> None:
    case = make_case([33, 3, 5], score=score)
    clean = run(attend, case)
    for name in ("q", "k", "v", "out_gradient"):
        case[name][33:36] = torch.nan
    others = [*range(33), *range(36, 41)]
    found = run(attend, case)
    for name in ("out", "q", "k", "v"):
        assert torch.equal(found[name][others], clean[name][others]), name


def test_tiles_nobody_sees_are_never_read() -> None:
    case = make_case([192], MASKS["sliding_window"], heads=1)
    case["k"][:64] = case["v"][:64] = torch.nan
    found = run(attend, case)
    assert found["out"][128:].isfinite().all()
    assert found["q"][128:].isfinite().all()
    case = make_case([192], MASKS["sliding_window"], heads=1)
    case["q"][128:] = case["out_gradient"][128:] = torch.nan
    found = run(attend, case)
    assert found["k"][:64].isfinite().all()
    assert found["v"][:64].isfinite().all()


def test_views_with_strides_are_read_as_they_are() -> None:
    case = make_case([20, 9])
    packed = torch.cat([case[name] for name in "qkv"], dim=2).to(DEVICE)
    parts = packed.transpose(0, 1).contiguous().transpose(0, 1).split(16, dim=2)
    views = case | dict(zip("qkv", parts, strict=True))
    assert_equal_bits(run(attend, views), run(attend, case))


def test_addresses_beyond_two_to_the_31_elements_are_reached() -> None:
    case = make_case([3], heads=1)
    # Only the pages that are written ever become memory.
    far = torch.empty(2 * 2**30 + 48, device=DEVICE).as_strided((3, 1, 48), (2**30, 48, 1))
    far.copy_(torch.cat([case[name] for name in "qkv"], dim=2))
    views = case | dict(zip("qkv", far.split(16, dim=2), strict=True))
    assert_equal_bits(run(attend, views), run(attend, case))


@settings(max_examples=4, deadline=None)
@given(st.data(), st.sampled_from(["silu", "softmax"]), st.integers(0, 1000))
def test_any_two_intervals(data: st.DataObject, score: str, seed: int) -> None:
    lengths = data.draw(st.lists(st.integers(1, 50), min_size=1, max_size=2))
    case = make_case(lengths, intervals.causal, score=score, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    _, length = rows_of(torch.tensor(lengths))
    cuts = (torch.rand(len(length), 4, generator=generator) * (length[:, None] + 1)).int()
    cuts = cuts.sort(dim=1).values
    case["intervals"] = cuts[:, [2, 3, 0, 1]] if data.draw(st.booleans()) else cuts
    assert_as_good_as_pytorch(case)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"q": torch.zeros(4, 2, 16, dtype=torch.float64)}, "dtype"),
        ({"q": torch.zeros(4, 2, 257)}, "width"),
        ({"v": torch.zeros(4, 2, 32)[..., ::2]}, "v"),
        ({"q": torch.zeros(4, 65_536, 1)}, "heads"),
        ({"q": torch.zeros(1, 2, 16).expand(2**30 + 1, 2, 16)}, "q"),
        ({"k": torch.zeros(1, 2, 16).expand(2**30 + 1, 2, 16)}, "k"),
        ({"intervals": torch.zeros(4, 4, dtype=torch.int32, device="meta")}, "intervals"),
    ],
)
def test_refusals_name_what_is_wrong(change: Case, named: str) -> None:
    case = make_case([4], biased=(False, False)) | change
    names = ("q_offsets", "kv_offsets", "intervals", "score", "scale", "divisor")
    arguments = {name: case[name] for name in names}
    tensors = [case[name] if name in change else case[name].to(DEVICE) for name in "qkv"]
    with pytest.raises(FreshetError, match=f"refuses {named}:"):
        attend(*tensors, bias=Bias(), **arguments)


def test_a_bias_elsewhere_is_refused() -> None:
    case = {
        name: x.to(DEVICE) if isinstance(x, Tensor) else x for name, x in make_case([4]).items()
    }
    bias = checked_bias(
        case["position_bias"], None, None, None, None, q=case["q"], k=case["k"],
        offsets=case["q_offsets"],
    )  # fmt: skip
    assert bias.position is not None
    elsewhere = torch.zeros(4, dtype=torch.int64, device="meta")
    names = ("q", "k", "v", "q_offsets", "kv_offsets", "intervals", "score", "scale", "divisor")
    with pytest.raises(FreshetError, match=r"refuses bias\.position\.q_positions"):
        attend(
            **{name: case[name] for name in names},
            bias=Bias(position=replace(bias.position, q_positions=elsewhere)),
        )
