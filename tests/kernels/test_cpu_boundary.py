"""What C++ makes of arguments that the door would refuse, and of the largest that it lets in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.interval_attention import interval_attention
from kernels.interval_attention.bias import edges_ms
from kernels.library import load
from tests.kernels.test_cpu_attention import in_dtype, make_case


def test_more_elements_than_32_bits_count_are_addressed() -> None:
    heads, width, rows = 1024, 256, 2**13 + 16
    # Memory that nobody touches costs nothing: only the last rows are ever written or attended.
    keys = torch.empty(rows, heads, width, dtype=torch.bfloat16)
    assert keys.numel() > 2**31
    last = torch.randn(16, heads, width, generator=torch.Generator().manual_seed(1))
    keys[-16:] = last
    values = torch.zeros(rows, heads, 1, dtype=torch.bfloat16)
    values[-16:] = last[:, :, :1]
    case = make_case([16], heads=heads, width=width, value_width=1, q_lengths=[1])
    case = in_dtype(case | {"position_bias": torch.zeros(1)}, torch.bfloat16)
    case |= dict.fromkeys(("position_bias", "time_bias", "q_positions", "q_times_ms"))
    case |= {"kv_times_ms": None, "k": keys[-16:], "v": values[-16:]}
    case["intervals"] = torch.tensor([[0, 16, 0, 0]]).int()
    expected = interval_attention(**case, backend="cpu")
    case |= {"k": keys, "v": values, "kv_offsets": torch.tensor([0, rows])}
    case["intervals"] = torch.tensor([[rows - 16, rows, 0, 0]]).int()
    assert torch.equal(interval_attention(**case, backend="cpu"), expected)


@pytest.mark.parametrize(
    ("place", "hostile", "named"),
    [
        (1, torch.zeros(8, 2, 15), "k: "),
        (1, torch.zeros(8, 2, 16, dtype=torch.float64), "k: "),
        (2, torch.zeros(8, 3, 16), "v: "),
        (3, torch.tensor([0, 9, 8]), "q_offsets"),
        (3, torch.tensor([-4, 5, 8]), "q_offsets"),
        (3, torch.tensor([0, 5, 8]).int(), "q_offsets"),
        (4, torch.tensor([0, 2**62, 8]), "kv_offsets"),
        (4, torch.tensor([0, 8]), "kv_offsets"),
        (5, torch.full((8, 4), 2**31 - 1).int(), "intervals: row 0"),
        (5, torch.full((8, 4), -1).int(), "intervals: row 0"),
        (5, torch.zeros(7, 4).int(), "intervals"),
        (6, torch.zeros(0), "position_bias"),
        (7, torch.zeros(3, dtype=torch.int64), "q_positions"),
        (7, None, "q_positions"),
        (9, torch.zeros(99, dtype=torch.int64), "edges_ms"),
        (10, torch.zeros(8), "q_times_ms"),
        (11, None, "kv_times_ms"),
    ],
)
def test_the_operator_itself_refuses_what_would_leave_its_memory(
    place: int, hostile: Tensor | None, named: str
) -> None:
    load()
    case = make_case([5, 3])
    arguments: list[Any] = [
        case["q"], case["k"], case["v"], case["q_offsets"], case["kv_offsets"], case["intervals"],
        case["position_bias"], case["q_positions"], case["time_bias"], edges_ms(64),
        case["q_times_ms"], case["kv_times_ms"], False, 0.25, 1.0,
    ]  # fmt: skip
    good, _ = torch.ops.freshet_cpu.interval_attention(*arguments)
    grad, sums = torch.ones_like(good), torch.empty(0, 2)
    arguments[place] = hostile
    with pytest.raises(RuntimeError, match=f"refuses {named}"):
        torch.ops.freshet_cpu.interval_attention(*arguments)
    with pytest.raises(RuntimeError, match=f"refuses {named}"):
        torch.ops.freshet_cpu.interval_attention_backward(grad, good, sums, *arguments)


def test_positions_and_times_of_any_size_are_clamped() -> None:
    case = make_case([60])
    extremes = torch.tensor([2**63 - 1, -(2**63)]).repeat(30)
    case |= {"q_positions": extremes, "q_times_ms": extremes, "kv_times_ms": extremes.flip(0)}
    clamped = case | {"q_positions": extremes.clamp(-1000, 1000)}
    expected = interval_attention(**clamped, backend="reference")
    assert torch.equal(interval_attention(**case, backend="reference"), expected)
    torch.testing.assert_close(interval_attention(**case, backend="cpu"), expected)
