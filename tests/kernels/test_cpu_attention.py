"""The C++ of interval attention: as exact as its reference, and the same bits however it is run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ingest.runtime.errors import FreshetError
from kernels import intervals as masks
from kernels import library
from kernels.interval_attention import interval_attention
from kernels.jagged import offsets_of, positions_of
from tests.kernels.masks import MASKS
from tests.kernels.rounding import largest_sums_of_terms

TRAINED = ("q", "k", "v", "position_bias", "time_bias")
DAY_MS = 86_400_000


def make_case(
    lengths: list[int],
    *,
    score: str = "silu",
    width: int = 16,
    value_width: int = 16,
    heads: int = 2,
    mask: Tensor | None = None,
    q_lengths: list[int] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Float32 sequences with both biases, times in order; causal unless told otherwise."""
    generator = torch.Generator().manual_seed(seed)
    columns = torch.tensor(lengths, dtype=torch.int64)
    rows = columns if q_lengths is None else torch.tensor(q_lengths, dtype=torch.int64)
    num_rows, num_columns = int(rows.sum()), int(columns.sum())
    times = torch.randint(0, 30 * DAY_MS, (num_columns,), generator=generator).sort().values

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "q": normal(num_rows, heads, width),
        "k": normal(num_columns, heads, width),
        "v": normal(num_columns, heads, value_width),
        "q_offsets": offsets_of(rows),
        "kv_offsets": offsets_of(columns),
        "intervals": masks.causal(columns) if mask is None else mask,
        "score": score,
        "scale": width**-0.5,
        "divisor": 64.0 if score == "silu" else 1.0,
        "position_bias": normal(100),
        "time_bias": normal(64),
        "q_positions": positions_of(rows),
        "q_times_ms": times if q_lengths is None else torch.full((num_rows,), 31 * DAY_MS),
        "kv_times_ms": times,
    }


def in_dtype(case: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return case | {name: case[name].to(dtype) for name in TRAINED if case[name] is not None}


def in_double(case: dict[str, Any]) -> dict[str, Any]:
    return in_dtype(case, torch.float64)


def gradient_of_output(case: dict[str, Any]) -> Tensor:
    shape = *case["q"].shape[:2], case["v"].shape[2]
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    return gradient.to(case["q"].dtype)


def results(
    case: dict[str, Any], backend: str, gradient: Tensor | None = None
) -> dict[str, Tensor]:
    """The output and the gradients of everything trained."""
    gradient = gradient_of_output(case) if gradient is None else gradient
    names = [name for name in TRAINED if case[name] is not None]
    leaves = {name: case[name].detach().clone().requires_grad_() for name in names}
    output = interval_attention(**(case | leaves), backend=backend)
    grads = torch.autograd.grad(
        output, list(leaves.values()), gradient.to(output.dtype), materialize_grads=True
    )
    return {"output": output.detach(), **dict(zip(names, grads, strict=True))}


def assert_as_exact_as_the_reference(case: dict[str, Any]) -> None:
    """At most twice its error, and two roundings of the terms that are summed.

    Where the reference cancels exactly the second is what is left: a weight's gradient and a row's
    mean, which softmax subtracts from it, are rounded apart, the mean as often as its output is.
    """
    gradient = gradient_of_output(case)
    exact = results(in_double(case), "reference", gradient)
    same_precision = results(case, "reference")
    sizes = largest_sums_of_terms(case, gradient)
    for name, found in results(case, "cpu").items():
        if not found.numel():
            continue
        error = float((found - exact[name]).abs().max())
        floor = 2 * torch.finfo(found.dtype).eps * sizes[name]
        allowed = 2 * float((same_precision[name] - exact[name]).abs().max()) + floor
        assert error <= allowed, f"{name}: {error:.3g} > {allowed:.3g}, floor {floor:.3g}"


@pytest.mark.parametrize("score", ["silu", "softmax"])
@pytest.mark.parametrize("lengths", [[0], [1], [63], [97, 0, 48], [1025], [1600]])
def test_its_error_is_at_most_twice_that_of_the_reference(score: str, lengths: list[int]) -> None:
    assert_as_exact_as_the_reference(make_case(lengths, score=score))


@pytest.mark.parametrize("score", ["silu", "softmax"])
@pytest.mark.parametrize("name", MASKS)
def test_every_mask_is_as_exact_as_the_reference(name: str, score: str) -> None:
    lengths = [0, 1, 97, 130]
    mask = MASKS[name](torch.tensor(lengths))
    assert_as_exact_as_the_reference(make_case(lengths, score=score, mask=mask))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("score", ["silu", "softmax"])
@pytest.mark.parametrize("lengths", [[1], [97, 0, 48], [1600]])
def test_half_precision_errs_at_most_twice_as_much_as_the_reference_in_it(
    score: str, lengths: list[int], dtype: torch.dtype
) -> None:
    case = in_dtype(make_case(lengths, score=score), dtype)
    assert_as_exact_as_the_reference(case)
    assert {x.dtype for x in results(case, "cpu").values()} == {dtype}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("score", ["silu", "softmax"])
def test_half_precision_is_that_of_inputs_and_results_alone(score: str, dtype: torch.dtype) -> None:
    case = in_dtype(make_case([97, 0, 48], score=score), dtype)
    expected = interval_attention(**in_dtype(case, torch.float32), backend="cpu")
    assert torch.equal(interval_attention(**case, backend="cpu"), expected.to(dtype))


@pytest.mark.parametrize(
    ("width", "value_width"), [(1, 3), (17, 5), (64, 32), (128, 128), (256, 7)]
)
def test_any_width_will_do(width: int, value_width: int) -> None:
    case = make_case([70, 33], width=width, value_width=value_width, heads=3)
    assert_as_exact_as_the_reference(case)


@pytest.mark.parametrize("score", ["silu", "softmax"])
def test_targets_and_cached_columns_are_as_exact(score: str) -> None:
    lengths, targets = torch.tensor([130, 200, 9]), torch.tensor([16, 70, 9])
    mask = masks.target_aware(lengths, targets)
    assert_as_exact_as_the_reference(make_case(lengths.tolist(), score=score, mask=mask))
    mask = masks.candidates(lengths - targets, targets)
    case = make_case(lengths.tolist(), score=score, mask=mask, q_lengths=targets.tolist())
    assert_as_exact_as_the_reference(case)


@settings(max_examples=40, deadline=None)
@given(
    st.data(),
    st.lists(st.integers(0, 130), min_size=1, max_size=3),
    st.sampled_from(["silu", "softmax"]),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_any_shape_and_intervals_are_as_exact(
    data: st.DataObject, lengths: list[int], score: str, width: int, value_width: int
) -> None:
    case = make_case(lengths, score=score, width=width, value_width=value_width)
    seed = data.draw(st.integers(0, 10_000))
    generator = torch.Generator().manual_seed(seed)
    columns = torch.repeat_interleave(torch.tensor(lengths), torch.tensor(lengths))
    cuts = torch.rand(len(columns), 4, generator=generator).sort(dim=1).values
    cuts = (cuts * (columns[:, None] + 1)).int()
    swapped = torch.rand(len(columns), generator=generator) < 0.5
    case["intervals"] = torch.where(swapped[:, None], cuts[:, [2, 3, 0, 1]], cuts)
    case["q_positions"] = torch.randint(-300, 300, (len(columns),), generator=generator)
    if seed % 2:
        case["q_times_ms"] = case["q_times_ms"][torch.randperm(len(columns), generator=generator)]
    assert_as_exact_as_the_reference(case)


@pytest.mark.parametrize("missing", ["position", "time", "both"])
def test_a_bias_may_be_absent(missing: str) -> None:
    case = make_case([97, 40])
    if missing != "time":
        case |= {"position_bias": None, "q_positions": None}
    if missing != "position":
        case |= {"time_bias": None, "q_times_ms": None, "kv_times_ms": None}
    expected = interval_attention(**case, backend="reference")
    torch.testing.assert_close(interval_attention(**case, backend="cpu"), expected)


def test_heads_cut_out_of_a_wider_row_need_no_copy() -> None:
    case = make_case([50, 20], heads=2)
    joined = torch.cat([case["q"], case["k"], case["v"]], dim=2)
    cut = dict(zip("qkv", joined.split(16, dim=2), strict=True))
    expected = interval_attention(**case, backend="cpu")
    assert torch.equal(interval_attention(**(case | cut), backend="cpu"), expected)


@pytest.mark.parametrize("score", ["silu", "softmax"])
def test_any_number_of_threads_gives_the_same_bits(score: str) -> None:
    # The longest is worked on in parts, at the same time.
    case = make_case([300, 1, 0, 2100, 77], score=score, width=4, value_width=4)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(results(case, "cpu"))
    torch.set_num_threads(1)
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in other)


@pytest.mark.parametrize("score", ["silu", "softmax"])
def test_gradients_alone_are_the_very_bits_of_those_in_company(score: str) -> None:
    lengths = [150, 17, 0, 97]
    together = make_case(lengths, score=score)
    expected = results(together, "cpu")
    for user, length in enumerate(lengths):
        lo = sum(lengths[:user])
        own = slice(lo, lo + length)
        alone = together | {"q_offsets": torch.tensor([0, length])}
        alone["kv_offsets"] = alone["q_offsets"]
        for name in ("q", "k", "v", "intervals", "q_positions", "q_times_ms", "kv_times_ms"):
            alone[name] = together[name][own]
        leaves = {name: alone[name].clone().requires_grad_() for name in "qkv"}
        output = interval_attention(**(alone | leaves), backend="cpu")
        whole = torch.randn(sum(lengths), 2, 16, generator=torch.Generator().manual_seed(7))
        grads = torch.autograd.grad(output, list(leaves.values()), whole[own])
        assert torch.equal(output, expected["output"][own])
        for name, grad in zip("qkv", grads, strict=True):
            assert torch.equal(grad, expected[name][own]), name


def test_one_long_sequence_of_one_head_is_as_exact_and_the_same_bits_on_any_threads() -> None:
    case = make_case([3000], heads=1, width=4, value_width=4)
    case |= dict.fromkeys(
        ("position_bias", "time_bias", "q_positions", "q_times_ms", "kv_times_ms")
    )
    assert_as_exact_as_the_reference(case)
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(results(case, "cpu"))
    torch.set_num_threads(1)
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in other)


def test_columns_without_rows_get_gradient_zero() -> None:
    case = make_case([5, 40], q_lengths=[0, 2], mask=masks.causal(torch.tensor([2])))
    found = results(case, "cpu")
    assert not found["k"][:5].any()
    assert not found["v"][:5].any()
    assert found["v"].isfinite().all()


def test_scratch_memory_it_takes_uninitialised_never_shows(tmp_path: Path) -> None:
    # glibc fills what malloc returns with this pattern: floats of 3e38.
    script = (
        "import sys, torch\n"
        "from tests.kernels.test_cpu_attention import make_case, results\n"
        "torch.save([results(make_case([97, 1, 50], score=s, value_width=5), 'cpu')"
        " for s in ('silu', 'softmax')], sys.argv[1])"
    )
    environ = os.environ | {"MALLOC_PERTURB_": "128", "PYTHONPATH": os.pathsep.join(sys.path)}
    path = tmp_path / "found.pt"
    subprocess.run([sys.executable, "-c", script, str(path)], env=environ, check=True)
    for score, found in zip(("silu", "softmax"), torch.load(path), strict=True):
        for name, expected in results(
            make_case([97, 1, 50], score=score, value_width=5), "cpu"
        ).items():
            assert torch.equal(found[name], expected), name


def test_a_library_of_other_sources_is_never_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sources = "kernels/interval_attention/cpu"
    for source in library.ROOT.glob("kernels/*/cpu/*.[ch]*"):
        copy = tmp_path / source.relative_to(library.ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(source.read_bytes())
    built = library.built_library()
    monkeypatch.setattr(library, "ROOT", tmp_path)
    assert library.built_library() == built
    (tmp_path / sources / "problem.h").write_text("// changed")
    with pytest.raises(FreshetError, match="not built") as caught:
        library.built_library()
    assert 'backend="reference"' in str(caught.value)


def test_a_missing_compiler_names_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(library, "BUILD_DIR", tmp_path)
    monkeypatch.setenv("CXX", "no-such-compiler -x")
    with pytest.raises(FreshetError, match="no C\\+\\+ compiler") as caught:
        library.build()
    assert 'backend="reference"' in str(caught.value)
    assert not list(tmp_path.iterdir())
