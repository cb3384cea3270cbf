"""Jagged tensors against lists of sequences."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kernels.jagged import concat, gather, offsets_of, positions_of, reverse, sequence_of, split

pairs_of_lengths = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=5)


def columns(pairs: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    return (
        torch.tensor([pair[0] for pair in pairs], dtype=torch.int64),
        torch.tensor([pair[1] for pair in pairs], dtype=torch.int64),
    )


def rows(lengths: Tensor, start: float = 1.0) -> Tensor:
    num = int(lengths.sum())
    return (start + torch.arange(2 * num, dtype=torch.float64)).view(num, 2)


def joined(parts: list[Tensor], like: Tensor) -> Tensor:
    return torch.cat([like[:0], *parts])


@given(pairs_of_lengths)
def test_concat_puts_each_sequences_second_rows_behind_its_first(
    pairs: list[tuple[int, int]],
) -> None:
    lengths = columns(pairs)
    one, two = rows(lengths[0]), rows(lengths[1], start=-99.0)
    per_sequence = zip(one.split(lengths[0].tolist()), two.split(lengths[1].tolist()), strict=True)
    expected = joined([part for both in per_sequence for part in both], one)
    assert torch.equal(concat(one, two, *lengths), expected)


@given(pairs_of_lengths)
def test_split_undoes_concat(pairs: list[tuple[int, int]]) -> None:
    lengths = columns(pairs)
    one, two = rows(lengths[0]), rows(lengths[1], start=-99.0)
    back = split(concat(one, two, *lengths), *lengths)
    assert torch.equal(back[0], one)
    assert torch.equal(back[1], two)


@given(pairs_of_lengths)
def test_reverse_turns_every_sequence_round(pairs: list[tuple[int, int]]) -> None:
    lengths, _ = columns(pairs)
    x = rows(lengths)
    expected = joined([part.flip(0) for part in x.split(lengths.tolist())], x)
    assert torch.equal(reverse(x, lengths), expected)
    assert torch.equal(reverse(reverse(x, lengths), lengths), x)


@given(pairs_of_lengths)
def test_gather_takes_a_row_of_each_or_the_default(pairs: list[tuple[int, int]]) -> None:
    lengths, positions = columns(pairs)
    x, default, positions = rows(lengths), torch.tensor([-7.0, -8.0]).double(), positions - 1
    found = gather(x, lengths, positions, default)
    for row, sequence, position in zip(found, x.split(lengths.tolist()), positions, strict=True):
        inside = 0 <= position < len(sequence)
        assert torch.equal(row, sequence[position] if inside else default)


@given(pairs_of_lengths)
def test_sequence_and_position_name_every_row(pairs: list[tuple[int, int]]) -> None:
    lengths, _ = columns(pairs)
    starts = offsets_of(lengths).index_select(0, sequence_of(lengths))
    assert (starts + positions_of(lengths)).tolist() == list(range(int(lengths.sum())))


def test_gradients() -> None:
    first, second = torch.tensor([2, 0, 1]), torch.tensor([1, 2, 0])
    one, two = rows(first).requires_grad_(), rows(second).requires_grad_()
    default = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    check = torch.autograd.gradcheck
    assert check(lambda a, b: concat(a, b, first, second), [one, two])
    assert check(lambda a: split(a, torch.tensor([1, 0, 1]), torch.tensor([1, 0, 0])), [one])
    assert check(lambda a: reverse(a, first), [one])
    assert check(lambda a, b: gather(a, first, first - 1, b), [one, default])
