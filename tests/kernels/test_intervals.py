"""Masks as interval pairs, against the boolean matrices they stand for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ingest.runtime.errors import FreshetError
from kernels import intervals
from kernels.jagged import offsets_of, positions_of, sequence_of

Users = list[tuple[int, int]]
users = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), max_size=5)


def visible(row: list[int]) -> set[int]:
    a0, b0, a1, b1 = row
    return {*range(a0, b0), *range(a1, b1)}


def columns_of(counts: Users) -> tuple[torch.Tensor, torch.Tensor]:
    table = torch.tensor(counts, dtype=torch.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


@given(users)
def test_target_aware_rows_see_the_history_before_them_and_themselves(counts: Users) -> None:
    history, targets = columns_of(counts)
    rows = iter(intervals.target_aware(history + targets, targets).tolist())
    for num_history, num_targets in counts:
        for row in range(num_history + num_targets):
            assert visible(next(rows)) == {*range(min(row, num_history)), row}


@given(users)
def test_candidates_are_the_target_rows_of_the_whole_sequence(counts: Users) -> None:
    history, targets = columns_of(counts)
    whole = intervals.target_aware(history + targets, targets)
    is_target = torch.tensor(
        [row >= h for h, t in counts for row in range(h + t)], dtype=torch.bool
    )
    assert torch.equal(intervals.candidates(history, targets), whole[is_target])


@given(users)
def test_num_pairs_counts_what_rows_see(counts: Users) -> None:
    history, targets = columns_of(counts)
    mask = intervals.target_aware(history + targets, targets)
    assert intervals.num_pairs(mask) == sum(len(visible(row)) for row in mask.tolist())


def test_causal_rows_see_themselves_and_all_before() -> None:
    mask = intervals.causal(torch.tensor([3, 0, 1])).tolist()
    assert [visible(row) for row in mask] == [{0}, {0, 1}, {0, 1, 2}, {0}]


def test_more_targets_than_rows_are_refused() -> None:
    with pytest.raises(FreshetError, match="refuses num_targets"):
        intervals.target_aware(torch.tensor([2]), torch.tensor([3]))


@given(st.lists(st.integers(0, 5), max_size=6))
def test_offsets_sequences_and_positions_describe_the_same_rows(counts: list[int]) -> None:
    lengths = torch.tensor(counts, dtype=torch.int64)
    offsets, positions = offsets_of(lengths), positions_of(lengths)
    assert torch.equal(
        offsets[sequence_of(lengths)] + positions, torch.arange(sum(counts), dtype=torch.int64)
    )
