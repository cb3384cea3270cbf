"""Grouped norm and norm times gate: what they compute, their gradients, what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from ingest.runtime.errors import FreshetError
from kernels.grouped_linear import grouped_linear
from kernels.grouped_norm import grouped_norm
from kernels.norm_gate import norm_gate

NUM_GROUPS, WIDTH = 3, 6
BACKENDS = ["cpu", "reference"]


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def make_case(groups: list[int]) -> dict[str, Any]:
    return {
        "x": normal(len(groups), WIDTH),
        "weight": normal(NUM_GROUPS, WIDTH, seed=1),
        "bias": normal(NUM_GROUPS, WIDTH, seed=2),
        "group": torch.tensor(groups, dtype=torch.int64),
    }


def gate_case() -> dict[str, Any]:
    return {
        "x": normal(3, 2, 4),
        "gate": normal(3, 2, 8, seed=1)[:, :, 2:6],
        "weight": normal(8),
        "bias": normal(8, seed=2),
    }


@given(
    st.lists(st.integers(0, NUM_GROUPS - 1), max_size=9), st.booleans(), st.sampled_from(BACKENDS)
)
def test_every_row_is_normalised_and_scaled_by_its_groups_weights(
    groups: list[int], rms: bool, backend: str
) -> None:
    case = make_case(groups)
    out = grouped_norm(**case, rms=rms, backend=backend)
    for row, group in enumerate(groups):
        x, weight = case["x"][row], case["weight"][group]
        if rms:
            expected = functional.rms_norm(x, (WIDTH,), weight, 1e-5)
        else:
            expected = functional.layer_norm(x, (WIDTH,), weight)
        torch.testing.assert_close(out[row], expected + case["bias"][group], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_groups_with_equal_weights_are_one_layer_norm(backend: str) -> None:
    case = make_case([2, 0, 1, 0]) | {"weight": torch.ones(3, WIDTH).double(), "bias": None}
    expected = functional.layer_norm(case["x"], (WIDTH,))
    torch.testing.assert_close(grouped_norm(**case, backend=backend), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_norm_gate_is_the_layer_norm_of_all_heads_together_times_the_gate(backend: str) -> None:
    case = gate_case()
    expected = functional.layer_norm(case["x"].flatten(1), (8,), case["weight"], case["bias"])
    expected = expected * case["gate"].flatten(1)
    torch.testing.assert_close(norm_gate(**case, backend=backend), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("groups", [[2, 0, 0, 2], [1], []])
def test_gradients_of_grouped_norm(groups: list[int], rms: bool, backend: str) -> None:
    case = make_case(groups)
    leaves = [case[name].requires_grad_() for name in ("x", "weight", "bias")]
    assert torch.autograd.gradcheck(
        lambda *a: grouped_norm(*a, case["group"], rms=rms, backend=backend), leaves
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("biased", [False, True])
def test_gradients_of_norm_gate(biased: bool, backend: str) -> None:
    case = gate_case()
    names = ["x", "gate", "weight", "bias"][: 4 if biased else 3]
    leaves = [case[name].requires_grad_() for name in names]
    bias = () if biased else (None,)
    assert torch.autograd.gradcheck(lambda *a: norm_gate(*a, *bias, backend=backend), leaves)


def norm_loss(*leaves: Tensor) -> Tensor:
    x, weight, bias, group = leaves
    return grouped_norm(x, weight, bias, group).square().sum()


def gate_loss(*leaves: Tensor) -> Tensor:
    return norm_gate(*leaves).square().sum()


def linear_loss(*leaves: Tensor) -> Tensor:
    x, weight, bias, group = leaves
    return grouped_linear(x, weight[:, :, None] * bias[:, None], None, group).square().sum()


@pytest.mark.parametrize(
    ("loss", "leaves"),
    [
        (norm_loss, list(make_case([2, 0, 0, 2]).values())),
        (linear_loss, list(make_case([2, 0, 0, 2]).values())),
        (gate_loss, list(gate_case().values())),
    ],
)
def test_compilers_see_through_it(loss: Callable[..., Tensor], leaves: list[Tensor]) -> None:
    def gradients(function: Callable[..., Tensor]) -> list[Tensor]:
        own = [each.clone().requires_grad_(each.is_floating_point()) for each in leaves]
        out = function(*own)
        wanted = [each for each in own if each.requires_grad]
        return [out.detach(), *torch.autograd.grad(out, wanted)]

    eager = gradients(loss)
    compiled = gradients(torch.compile(loss, fullgraph=True, backend="aot_eager"))
    assert all(torch.equal(a, b) for a, b in zip(eager, compiled, strict=True))

    class Model(torch.nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return loss(*inputs)

    program = torch.export.export(Model(), tuple(leaves))
    assert torch.equal(program.module()(*leaves), eager[0])


def test_a_compiled_call_refuses_the_same_groups() -> None:
    case = make_case([0, 1])
    compiled = torch.compile(norm_loss, fullgraph=True, backend="aot_eager")
    bad = torch.tensor([0, NUM_GROUPS])
    with pytest.raises(FreshetError, match=r"refuse group.*0\.\.3 of 3"):
        compiled(case["x"], case["weight"], case["bias"], bad)


def test_the_operators_keep_pytorchs_rules() -> None:
    case, gated = make_case([2, 0, 0, 2]), gate_case()
    order, offsets = torch.tensor([1, 2, 0, 3]), torch.tensor([0, 2, 2, 4])
    grouped_norm(**case)
    x, weight, bias = (case[name].requires_grad_() for name in ("x", "weight", "bias"))
    ops = torch.ops.freshet_cpu
    tables = (gated["weight"][None].requires_grad_(), gated["bias"][None].requires_grad_())
    for operator, arguments in (
        (ops.grouped_norm, (x[:, None], None, weight, bias, order, offsets, False, 1e-5)),
        (ops.grouped_norm, (gated["x"], gated["gate"], *tables, None, None, True, 1e-5)),
        (ops.grouped_linear, (x, normal(3, WIDTH, 2), None, order, offsets)),
        (torch.ops.freshet.sort_groups, (case["group"], 3)),
    ):
        torch.library.opcheck(operator.default, arguments)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"x": normal(2, WIDTH, 1)}, "refuses x"),
        ({"x": torch.zeros(2, WIDTH, dtype=torch.int64)}, "refuses x"),
        ({"x": torch.zeros(2, WIDTH)}, "refuses weight.*float64.*float32"),
        ({"weight": normal(NUM_GROUPS, WIDTH + 1)}, r"refuses weight.*\(3, 7\).*\(3, 6\)"),
        ({"bias": normal(WIDTH)}, "refuses bias"),
        ({"group": torch.tensor([0, NUM_GROUPS])}, "group"),
        ({"group": torch.tensor([0, -1])}, "group"),
        ({"group": torch.tensor([0, 1], dtype=torch.int32)}, "group.*int32"),
        ({"epsilon": -1.0}, "refuses epsilon"),
        ({"backend": "nosuch"}, "refuses backend.*'cpu'"),
        ({"backend": "triton"}, "triton lacks device cpu"),
    ],
)
def test_grouped_norm_names_what_it_refuses(change: dict[str, Any], named: str) -> None:
    with pytest.raises(FreshetError, match=named):
        grouped_norm(**(make_case([0, 1]) | change))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"x": normal(3, 8)}, "refuses x"),
        ({"gate": normal(3, 2, 5)}, "refuses gate"),
        ({"gate": torch.zeros(3, 2, 4)}, "refuses gate.*float32"),
        ({"weight": normal(9)}, "refuses weight"),
    ],
)
def test_norm_gate_names_what_it_refuses(change: dict[str, Any], named: str) -> None:
    with pytest.raises(FreshetError, match=named):
        norm_gate(**(gate_case() | change))
