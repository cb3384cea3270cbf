"""torch.compile and torch.export see through the door: one graph, the eager bits, the same refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ingest.runtime.errors import FreshetError
from kernels.interval_attention import interval_attention
from kernels.interval_attention.bias import edges_ms
from kernels.library import load
from tests.kernels import attention_cases
from tests.kernels.attention_cases import TRAINED

Tensors = dict[str, Tensor]
backends = pytest.mark.parametrize("backend", ["reference", "cpu"])
ways = pytest.mark.parametrize(
    ("score", "backend"), [("silu", "reference"), ("silu", "cpu"), ("softmax", "cpu")]
)


def make_case(sizes: list[int], *, dtype: torch.dtype = torch.float32) -> Tensors:
    """The tensors of a case whose rows have no positions of their own."""
    case = attention_cases.make_case(sizes, [0] * len(sizes), dtype=dtype)
    tensors = {name: x for name, x in case.items() if isinstance(x, Tensor)}
    del tensors["q_positions"]
    return tensors | {name: tensors[name].requires_grad_() for name in TRAINED}


class Attention(torch.nn.Module):
    def __init__(self, score: str, backend: str) -> None:
        super().__init__()
        self.constants: dict[str, Any] = {"score": score, "scale": 0.6, "backend": backend}

    def forward(self, case: Tensors) -> Tensor:
        return interval_attention(**case, **self.constants)


def results(attend: Callable[[Tensors], Tensor], case: Tensors) -> list[Tensor]:
    output = attend(case)
    return [output, *torch.autograd.grad(output.square().sum(), [case[n] for n in TRAINED])]


@ways
def test_a_compiled_call_is_one_graph_with_the_eager_bits(score: str, backend: str) -> None:
    attend = Attention(score, backend)
    compiled = torch.compile(attend, fullgraph=True, dynamic=True, backend="aot_eager")
    for sizes in ([20, 0, 9], [3, 31, 6]):
        case = make_case(sizes)
        for found, expected in zip(results(compiled, case), results(attend, case), strict=True):
            assert torch.equal(found, expected)


def test_a_compiled_call_refuses_wrong_intervals_when_it_runs() -> None:
    compiled = torch.compile(Attention("silu", "cpu"), fullgraph=True, backend="aot_eager")
    case = make_case([4, 2])
    compiled(case)
    case["intervals"] = case["intervals"].clone()
    case["intervals"][3, 1] = 5
    with pytest.raises(FreshetError, match=r"Row 3 has .* over 4 columns"):
        compiled(case)


@backends
def test_an_exported_call_is_one_operator_and_keeps_its_checks(backend: str) -> None:
    attend, case = Attention("softmax", backend), make_case([5, 3])
    program = torch.export.export(attend, (case,))
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert f"freshet_{backend}.interval_attention.default" in called
    assert "freshet.checked_intervals.default" in called
    exported = program.module()
    assert torch.equal(exported(case), attend(case))
    case["q_offsets"] = torch.tensor([0, 6, 7])
    with pytest.raises(FreshetError, match="refuses q_offsets"):
        exported(case)


@backends
@pytest.mark.parametrize(("score", "biased"), [("silu", False), ("softmax", True)])
def test_pytorch_finds_the_operators_registered_in_full(
    score: str, biased: bool, backend: str
) -> None:
    load()
    case = make_case([5, 0, 3], dtype=torch.float64)
    names = ("q", "k", "v", "q_offsets", "kv_offsets", "intervals")
    bias = [None] * 6
    if biased:
        bias = [
            case["position_bias"], torch.arange(8), case["time_bias"], edges_ms(9),
            case["q_times_ms"], case["kv_times_ms"],
        ]  # fmt: skip
    operator = getattr(torch.ops, f"freshet_{backend}").interval_attention.default
    arguments = (*(case[name] for name in names), *bias, score == "softmax", 0.5, 1.0)
    torch.library.opcheck(operator, arguments)


def test_pytorch_finds_the_checks_registered_in_full() -> None:
    case = make_case([5, 0, 3])
    arguments = (case["intervals"], case["q_offsets"], case["kv_offsets"], 8)
    torch.library.opcheck(torch.ops.freshet.checked_intervals.default, arguments)


def test_there_is_no_wrong_second_derivative() -> None:
    case = make_case([3], dtype=torch.float64)
    output = Attention("silu", "cpu")(case)
    (gradient,) = torch.autograd.grad(output.square().sum(), case["q"], create_graph=True)
    with pytest.raises(FreshetError, match="no second derivative"):
        gradient.sum().backward()
