"""Masks as interval pairs, against what each row is said to attend, column by column."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ingest.runtime.errors import FreshetError
from kernels import intervals
from kernels.jagged import offsets_of, positions_of, sequence_of
from tests.kernels.masks import MASKS

Users = list[tuple[int, int]]
Sees = Callable[[int, int], bool]

users = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4)), max_size=4)
small = st.integers(0, 6)


def visible(row: list[int]) -> set[int]:
    a0, b0, a1, b1 = row
    return {*range(a0, b0), *range(a1, b1)}


def columns_of(counts: Users) -> tuple[Tensor, Tensor]:
    table = torch.tensor(counts, dtype=torch.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def assert_each_row_sees(mask: Tensor, sizes: Iterator[tuple[int, int, Sees]]) -> None:
    """`sizes` has a sequence's rows and columns, and whether row i sees column j."""
    assert mask.dtype == torch.int32
    rows = iter(mask.tolist())
    for num_rows, num_columns, sees in sizes:
        for i in range(num_rows):
            assert visible(next(rows)) == {j for j in range(num_columns) if sees(i, j)}, i
    assert next(rows, None) is None


def with_targets(history: int, contexts: int, of_history: Sees, of_target: Sees) -> Sees:
    """The rule for history rows and targets; a context sees all but targets, a target itself."""

    def sees(i: int, j: int) -> bool:
        if i >= history:
            return j == i or (j < history and of_target(i, j))
        return j < history if i < contexts else of_history(i, j)

    return sees


@given(users)
def test_causal_and_full_rows_see_all_before_or_all(counts: Users) -> None:
    lengths, _ = columns_of(counts)
    sizes = lengths.tolist()
    causal, full = intervals.causal(lengths), intervals.full(lengths)
    assert_each_row_sees(causal, ((n, n, lambda i, j: j <= i) for n in sizes))
    assert_each_row_sees(full, ((n, n, lambda i, j: True) for n in sizes))


@given(users, small)
def test_targets_see_the_history_and_themselves(counts: Users, contexts: int) -> None:
    history, targets = columns_of(counts)
    mask = intervals.target_aware(history + targets, targets, contexts)
    sizes = (
        (h + t, h + t, with_targets(h, contexts, lambda i, j: j <= i, lambda i, j: True))
        for h, t in counts
    )
    assert_each_row_sees(mask, sizes)


@given(users)
def test_candidates_are_the_target_rows_of_the_whole_sequence(counts: Users) -> None:
    history, targets = columns_of(counts)
    whole = intervals.target_aware(history + targets, targets)
    is_target = torch.tensor(
        [row >= h for h, t in counts for row in range(h + t)], dtype=torch.bool
    )
    assert torch.equal(intervals.candidates(history, targets), whole[is_target])


def official(history: int, window: int, contexts: int, full_rows: int) -> Sees:
    """HSTU's rule by identity: contexts share id 0, targets the id after the last history row."""
    shift = max(contexts - 1, 0)
    last = history - shift

    def identity(row: int) -> int:
        return min(max(row - shift, 0), last)

    def sees(i: int, j: int) -> bool:
        mine, its = identity(i), identity(j)
        near = mine - its <= window or (full_rows > 0 and mine >= last - full_rows)
        of_context = contexts > 0 and mine == 0 and its < last
        return ((i == j or mine > its) and near) or of_context

    return sees


@given(users, small, small, small)
def test_a_sliding_window_is_the_official_rule(
    counts: Users, window: int, contexts: int, full_rows: int
) -> None:
    # Contexts are features of the user: there are always all of them.
    history, targets = columns_of(counts)
    history = history + contexts
    mask = intervals.sliding_window(
        history + targets, window,
        num_targets=targets, num_contexts=contexts, num_full_rows=full_rows,
    )  # fmt: skip
    sizes = (
        (h + contexts + t, h + contexts + t, official(h + contexts, window, contexts, full_rows))
        for h, t in counts
    )
    assert_each_row_sees(mask, sizes)


@given(users, st.integers(1, 6), small, small)
def test_semi_local_rows_see_the_latest_and_the_first(
    counts: Users, num_local: int, num_global: int, contexts: int
) -> None:
    history, targets = columns_of(counts)
    mask = intervals.semi_local(
        history + targets, num_local, num_global, num_targets=targets, num_contexts=contexts
    )

    def of_history(i: int, j: int) -> bool:
        return j <= i and (i - j < num_local or j < max(num_global, contexts))

    sizes = (
        (h + t, h + t, with_targets(h, contexts, of_history, lambda i, j: True)) for h, t in counts
    )
    assert_each_row_sees(mask, sizes)


@given(users, st.integers(1, 6), small)
def test_truncated_rows_see_contexts_and_the_latest(
    counts: Users, latest: int, contexts: int
) -> None:
    lengths, _ = columns_of(counts)
    sizes = (
        (n, n, lambda i, j: j < contexts or (j <= i and i - j < latest)) for n in lengths.tolist()
    )
    assert_each_row_sees(intervals.truncated(lengths, latest, contexts), sizes)


@given(users, small)
def test_a_bidirectional_window_reaches_both_ways(counts: Users, window: int) -> None:
    lengths, _ = columns_of(counts)
    sizes = ((n, n, lambda i, j: abs(i - j) <= window) for n in lengths.tolist())
    assert_each_row_sees(intervals.bidirectional_window(lengths, window), sizes)


@given(users, small)
def test_longer_rows_see_what_is_older_and_no_global(counts: Users, num_globals: int) -> None:
    lengths, spared = columns_of(counts)
    queries = (lengths - spared).clamp(min=0)
    mask = intervals.longer(lengths, queries, num_globals)
    sizes = (
        (m, n, lambda i, j: i < num_globals or j >= i)
        for m, n in zip(queries.tolist(), lengths.tolist(), strict=True)
    )
    assert_each_row_sees(mask, sizes)


parts = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.lists(st.integers(0, 9), max_size=6).map(sorted),
        st.lists(st.integers(-1, 10), max_size=3),
    ),
    max_size=4,
)


@given(parts)
def test_mtgr_candidates_see_realtime_rows_before_their_own_time(
    users: list[tuple[int, list[int], list[int]]],
) -> None:
    times = [t for static, realtime, own in users for t in [5] * static + realtime + own]
    sizes = [[s + len(r) + len(c), s, len(c)] for s, r, c in users]
    lengths, num_static, num_candidates = (
        torch.tensor(sizes, dtype=torch.int64).reshape(-1, 3).unbind(1)
    )
    mask = intervals.mtgr(
        lengths, num_static, num_candidates, torch.tensor(times, dtype=torch.int64)
    )

    def rule(static: int, realtime: list[int], own: list[int]) -> Sees:
        first_candidate = static + len(realtime)

        def sees(i: int, j: int) -> bool:
            if j < static or i < static:
                return j < static
            if i < first_candidate:
                return j <= i
            early = j < first_candidate and realtime[j - static] < own[i - first_candidate]
            return early or j == i

        return sees

    assert_each_row_sees(
        mask, ((n, n, rule(*user)) for user, (n, _, _) in zip(users, sizes, strict=True))
    )


@pytest.mark.parametrize("name", MASKS)
@settings(max_examples=25)
@given(st.lists(st.integers(0, 70), max_size=4))
def test_every_mask_has_two_disjoint_intervals_inside_its_sequence(
    name: str, sizes: list[int]
) -> None:
    lengths = torch.tensor(sizes, dtype=torch.int64)
    mask = MASKS[name](lengths)
    assert mask.shape == (sum(sizes), 4)
    a0, b0, a1, b1 = mask.unbind(1)
    assert (mask >= 0).all()
    assert (mask <= lengths[sequence_of(lengths), None]).all()
    assert ((a0 <= b0) & (a1 <= b1)).all()
    assert ((b0 <= a1) | (b1 <= a0) | (a0 == b0) | (a1 == b1)).all()


@pytest.mark.parametrize("name", ["causal", "sliding_window", "semi_local", "truncated"])
@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(3, 40), st.integers(0, 5)), max_size=3))
def test_rows_stay_as_they_are_when_others_are_appended(name: str, counts: Users) -> None:
    lengths, appended = columns_of(counts)
    longer = MASKS[name](lengths + appended)
    kept = positions_of(lengths + appended) < torch.repeat_interleave(lengths, lengths + appended)
    assert torch.equal(longer[kept], MASKS[name](lengths))


def test_windows_as_wide_as_the_sequence_are_causal() -> None:
    lengths = torch.tensor([9, 0, 4])
    causal = [visible(row) for row in intervals.causal(lengths).tolist()]
    for mask in (
        intervals.sliding_window(lengths, 8),
        intervals.semi_local(lengths, 9, 0),
        intervals.truncated(lengths, 9),
    ):
        assert [visible(row) for row in mask.tolist()] == causal


ONE, TWO, THREE = (torch.tensor([n]) for n in (1, 2, 3))


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: intervals.causal(torch.tensor([1, -2])), "lengths: Sequence 1 has -2"),
        (lambda: intervals.full(TWO.int()), r"lengths: They are \(1,\) torch.int32"),
        (lambda: intervals.target_aware(TWO, THREE), "num_targets: .* 3; there is room for 2"),
        (lambda: intervals.target_aware(TWO, -ONE), "num_targets: Sequence 0 has -1"),
        (lambda: intervals.target_aware(TWO, torch.tensor([1, 1])), "num_targets: They are"),
        (lambda: intervals.target_aware(TWO, TWO.to("meta")), "num_targets: .* on meta"),
        (lambda: intervals.target_aware(TWO, TWO, -1), "num_contexts: It is -1"),
        (lambda: intervals.candidates(-ONE, ONE), "history_lengths"),
        (lambda: intervals.candidates(ONE, torch.tensor([1, 1])), "num_candidates"),
        (lambda: intervals.sliding_window(TWO, -1), "window: It is -1; wanted at least 0"),
        (lambda: intervals.sliding_window(TWO, 1, num_full_rows=-1), "num_full_rows"),
        (lambda: intervals.semi_local(TWO, 0, 1), "num_local: It is 0; wanted at least 1"),
        (lambda: intervals.semi_local(TWO, 1, -1), "num_global"),
        (lambda: intervals.truncated(TWO, 0), "num_latest"),
        (lambda: intervals.truncated(TWO, 1, -1), "num_contexts"),
        (lambda: intervals.bidirectional_window(TWO, -1), "window"),
        (lambda: intervals.longer(TWO, THREE, 1), "num_queries"),
        (lambda: intervals.longer(TWO, TWO, -1), "num_globals"),
        (lambda: intervals.mtgr(TWO, THREE, ONE, torch.zeros(2).long()), "num_static"),
        (lambda: intervals.mtgr(TWO, ONE, THREE, torch.zeros(2).long()), "num_candidates"),
        (lambda: intervals.mtgr(TWO, ONE, ONE, torch.zeros(2)), "times_ms: They are"),
        (lambda: intervals.mtgr(THREE, ONE, 0 * ONE, torch.tensor([0, 2, 1])), "order of time"),
    ],
)
def test_bad_arguments_are_refused_by_name(build: Callable[[], Tensor], named: str) -> None:
    with pytest.raises(FreshetError, match=f"the mask refuses .*{named}"):
        build()


@given(st.lists(st.integers(0, 5), max_size=6))
def test_offsets_sequences_and_positions_describe_the_same_rows(counts: list[int]) -> None:
    lengths = torch.tensor(counts, dtype=torch.int64)
    offsets, positions = offsets_of(lengths), positions_of(lengths)
    assert torch.equal(
        offsets[sequence_of(lengths)] + positions, torch.arange(sum(counts), dtype=torch.int64)
    )
