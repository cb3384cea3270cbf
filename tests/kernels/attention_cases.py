"""Small cases of interval attention, and its definition as one loop per number."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kernels import intervals as masks
from kernels.jagged import offsets_of, positions_of

TRAINED = ("q", "k", "v", "position_bias", "time_bias")
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
    widths: tuple[int, int] = (WIDTH, VALUE_WIDTH),
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
        "q": normal(num_rows, HEADS, widths[0]),
        "k": normal(num_columns, HEADS, widths[0]),
        "v": normal(num_columns, HEADS, widths[1]),
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
