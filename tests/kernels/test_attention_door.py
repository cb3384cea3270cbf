"""What the door of interval attention lets in, and how it refuses the rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ingest.runtime.errors import FreshetError
from kernels.interval_attention import interval_attention
from tests.kernels.attention_cases import HEADS, TRAINED, WIDTH, make_case

backends = pytest.mark.parametrize("backend", ["reference", "cpu"])
PER_ROW = ("q_positions", "q_times_ms", "kv_times_ms")


def heads_first(x: Tensor) -> Tensor:
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def width_first(x: Tensor) -> Tensor:
    return x.transpose(0, 2).contiguous().transpose(0, 2)


def every_other_number(x: Tensor) -> Tensor:
    return torch.stack([x, torch.full_like(x, 7)], dim=-1)[..., 0]


def out_of_a_wider_row(x: Tensor) -> Tensor:
    return torch.cat([x, x + 1], dim=-1)[..., : x.shape[-1]]


def results(case: dict[str, Any]) -> list[Tensor]:
    leaves = {name: case[name].detach().requires_grad_() for name in TRAINED}
    output = interval_attention(**(case | leaves))
    # A gradient that is no more contiguous than what it is the gradient of.
    gradient = heads_first(torch.arange(output.numel()).view(output.shape).to(output.dtype))
    return [output, *torch.autograd.grad(output, list(leaves.values()), gradient)]


@backends
@pytest.mark.parametrize("score", ["silu", "softmax"])
@pytest.mark.parametrize("lay", [heads_first, width_first, every_other_number, out_of_a_wider_row])
def test_strides_change_no_number(
    lay: Callable[[Tensor], Tensor], score: str, backend: str
) -> None:
    case = make_case([9, 0, 40], [2, 0, 3], score=score, backend=backend)
    laid = case | {name: lay(case[name]) for name in "qkv"}
    for name in (*PER_ROW, "q_offsets", "kv_offsets", "intervals", *TRAINED[3:]):
        laid[name] = every_other_number(case[name])
        assert not laid[name].is_contiguous()
    for found, expected in zip(results(laid), results(case), strict=True):
        assert torch.equal(found, expected)


@backends
def test_one_row_expanded_to_many_is_read_as_many(backend: str) -> None:
    case = make_case([12], [2], backend=backend)
    for name in "qkv":
        case[name] = case[name][:1].expand(12, -1, -1)
    copied = case | {name: case[name].contiguous() for name in "qkv"}
    for found, expected in zip(results(case), results(copied), strict=True):
        assert torch.equal(found, expected)


def test_rows_beyond_the_reach_of_32_bits_are_found() -> None:
    case = make_case([9], [2], dtype=torch.float32, backend="cpu")
    # Pages that nobody writes take no memory: of these 8 GiB only the few of 9 rows.
    memory = torch.empty(2**31 + 64)
    far = {}
    for at, name in enumerate("qkv"):
        num_rows, heads, width = case[name].shape
        strides = (2**28, width, 1)
        far[name] = memory.as_strided((num_rows, heads, width), strides, 20 * at).copy_(case[name])
    assert torch.equal(interval_attention(**(case | far)), interval_attention(**case))


def with_rows(num_rows: int) -> dict[str, Any]:
    """Tensors of that many rows that are all the same memory."""
    x = torch.zeros(1, HEADS, WIDTH).expand(num_rows, -1, -1)
    return {"q": x, "k": x, "v": x}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"q": torch.zeros(4, 2)}, r"shape: Each must be .* seen: q \(4, 2\) torch.float32 cpu"),
        (
            {"k": torch.zeros(4, HEADS, WIDTH)},
            "dtype: .* q .* torch.float64 cpu, k .* torch.float32",
        ),
        ({name: torch.zeros(4, HEADS, WIDTH).long() for name in "qkv"}, "dtype: .* torch.int64"),
        (
            {"k": torch.zeros(4, HEADS, WIDTH + 1, dtype=torch.float64)},
            r"shape: .* q \(4, 2, 3\) .* k \(4, 2, 4\)",
        ),
        ({"v": torch.zeros(5, HEADS, WIDTH, dtype=torch.float64)}, r"shape: .* v \(5, 2, 3\)"),
        (
            {"v": torch.zeros(4, HEADS, WIDTH, dtype=torch.float64, device="meta")},
            "device: .* v .* meta",
        ),
        (
            with_rows(2**31),
            "shape: Rows are counted in 32 bits, at most 2147483647; seen: q .2147483648",
        ),
        ({"score": "relu"}, "score: It is 'relu', not silu or softmax"),
        ({"score": "softmax"}, "divisor: It is 11.0, but softmax has none"),
        ({"divisor": 0.0}, "divisor: It is 0.0, not a finite number above 0"),
        ({"divisor": math.inf}, "divisor: It is inf"),
        ({"divisor": math.nan}, "divisor: It is nan"),
        ({"scale": math.nan}, "scale: It is nan"),
        ({"scale": -math.inf}, "scale: It is -inf"),
        (
            {"q_offsets": torch.tensor([0, 4], dtype=torch.int32)},
            r"q_offsets: They are \(2,\) torch.int32, not int64 \[B\+1\]",
        ),
        ({"q_offsets": torch.zeros(0, dtype=torch.int64)}, r"q_offsets: They are \(0,\)"),
        ({"q_offsets": torch.tensor([0])}, "kv_offsets: 2 entries against 1 for q"),
        ({"q_offsets": torch.tensor([0, 3])}, r"q_offsets: .* from 0 to 4; seen \[0, 3\]"),
        ({"q_offsets": torch.tensor([1, 4])}, r"q_offsets: .* from 0 to 4; seen \[1, 4\]"),
        ({"q_offsets": torch.tensor([0, 4]).to("meta")}, "q_offsets: They are on meta, q on cpu"),
        ({"kv_offsets": torch.tensor([0, 4, 4])}, "kv_offsets: 3 entries against 2 for q"),
        ({"kv_offsets": torch.tensor([0, 5])}, r"kv_offsets: .* from 0 to 4; seen \[0, 5\]"),
        (
            {
                "q_offsets": torch.tensor([0, 5, 4]),
                "kv_offsets": torch.tensor([0, 2, 4]),
                "intervals": torch.zeros(4, 4).int(),
            },
            r"q_offsets: They must rise from 0 to 4; seen \[0, 5, 4\]",
        ),
        ({"intervals": torch.zeros(4, 4)}, r"intervals: .* torch.float32, not int32 \(4, 4\)"),
        ({"intervals": torch.zeros(3, 4).int()}, r"intervals: They are \(3, 4\)"),
        ({"intervals": torch.zeros(4, 4).int().to("meta")}, "intervals: They are on meta"),
        (
            {"intervals": torch.tensor([[0, 1, 0, 0], [0, 5, 0, 0]] * 2).int()},
            r"Row 1 has \[0, 5, 0, 0\] over 4 columns; they must be disjoint and inside",
        ),
        ({"intervals": torch.tensor([[-1, 1, 0, 0]] * 4).int()}, r"Row 0 has \[-1, 1, 0, 0\]"),
        ({"intervals": torch.tensor([[0, 2, 1, 3]] * 4).int()}, r"Row 0 has \[0, 2, 1, 3\]"),
        ({"intervals": torch.tensor([[1, 3, 0, 2]] * 4).int()}, r"Row 0 has \[1, 3, 0, 2\]"),
        ({"intervals": torch.tensor([[0, 4, 1, 2]] * 4).int()}, r"Row 0 has \[0, 4, 1, 2\]"),
        ({"q_positions": torch.zeros(3, dtype=torch.int64)}, r"q_positions: It is \(3,\)"),
        ({"q_times_ms": torch.zeros(4).int()}, "q_times_ms: .* not int64 of 4 rows"),
        ({"kv_times_ms": torch.zeros(4)}, "kv_times_ms: .* torch.float32"),
        ({"kv_times_ms": torch.zeros(4).long().to("meta")}, "kv_times_ms: .* meta"),
        ({"kv_times_ms": None}, "come together"),
        ({"position_bias": None}, "q_positions"),
        ({"position_bias": torch.zeros(2, 2, dtype=torch.float64)}, r"position_bias: .* \(2, 2\)"),
        ({"position_bias": torch.zeros(2)}, "position_bias: .* torch.float32 cpu, not one-dim"),
        ({"time_bias": torch.zeros(0, dtype=torch.float64)}, r"time_bias: It is \(0,\)"),
    ],
)
@backends
def test_refusals_name_the_argument_what_was_found_and_what_was_wanted(
    change: dict[str, Any], named: str, backend: str
) -> None:
    with pytest.raises(FreshetError, match=f"interval attention refuses .*{named}"):
        interval_attention(**(make_case([4], [1], backend=backend) | change))


@backends
@pytest.mark.parametrize("empty", [[5, 0, 5, 0], [3, 1, 0, 4], [2, 2, 0, 5], [0, 5, 3, 3]])
def test_an_empty_interval_lies_where_it_likes(empty: list[int], backend: str) -> None:
    case = make_case([5], [0], backend=backend)
    case["intervals"] = torch.tensor([empty] * 5).int()
    a0, b0, a1, b1 = empty
    kept = [[a, b, 0, 0] for a, b in ((a0, b0), (a1, b1)) if a < b] or [[0, 0, 0, 0]]
    plain = case | {"intervals": torch.tensor(kept * 5).int()}
    assert torch.equal(interval_attention(**case), interval_attention(**plain))
