"""The join of one user's events, and how tokens are cut into messages."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from features.emission import cuts, split
from features.tokens import EVENT_STRUCT, NEVER_MS, PendingEvent, join_events, sort_events
from features.users import User, Waiting, event_key, unpack_user, unpack_waiting

EVENTS = st.lists(
    st.tuples(
        st.integers(0, 100),
        st.integers(0, 10_000),
        st.integers(1, 4),
        st.integers(-1, 9),
        st.integers(0, 99),
        st.sampled_from([1, 2, 4, 32]),
    ),
    unique_by=lambda event: event[1],
    max_size=30,
)


@given(EVENTS, st.integers(0, 60))
def test_a_token_spans_its_window_and_no_event_is_lost(
    events: list[PendingEvent], window_ms: int
) -> None:
    tokens, next_ms = join_events(sorted(events), window_ms)
    assert next_ms == NEVER_MS
    assert sum(token.num_events for token in tokens) == len(events)
    assert all(token.first_ms <= token.last_ms <= token.first_ms + window_ms for token in tokens)
    for one, other in pairwise(tokens):
        assert (one.first_ms, one.first_offset) < (other.first_ms, other.first_offset)


@given(EVENTS, st.integers(0, 60), st.integers(0, 100))
def test_tokens_opened_before_a_time_are_the_first_of_all_tokens(
    events: list[PendingEvent], window_ms: int, before_ms: int
) -> None:
    whole, _ = join_events(sorted(events), window_ms)
    tokens, next_ms = join_events(sorted(events), window_ms, before_ms)
    rest = whole[len(tokens) :]
    assert tokens == [token for token in whole if token.first_ms < before_ms]
    assert next_ms == (rest[0].first_ms if rest else NEVER_MS)


@given(EVENTS)
def test_packed_events_come_back_sorted_and_repacked(events: list[PendingEvent]) -> None:
    packed = b"".join(EVENT_STRUCT.pack(*event) for event in events)
    found, repacked = sort_events(packed)
    assert found == sorted(events)
    assert list(EVENT_STRUCT.iter_unpack(repacked)) == found


@given(EVENTS, st.integers(1, 4))
def test_runs_cover_the_prefix_and_are_long_only_where_overlap_holds_them(
    events: list[PendingEvent], max_targets: int
) -> None:
    tokens, next_ms = join_events(sorted(events), 30)
    ends = cuts(tokens, next_ms)
    runs = split(ends, max_targets)
    assert [end for _, end in runs][-1:] == ends[-1:]
    assert [start for start, _ in runs] == [0, *[end for _, end in runs]][: len(runs)]
    for start, end in runs:
        assert end in ends
        if end - start > max_targets:
            assert not [other for other in ends if start < other < end]


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_integer_ids_never_share_a_key(one: int, other: int) -> None:
    assert (event_key(one) == event_key(other)) == (one == other)


@given(st.lists(st.integers(0, 2**63 - 1), max_size=20), st.integers(0, 2**63 - 1))
def test_a_user_remembers_exactly_the_ids_it_holds(ids: list[int], other: int) -> None:
    user = User(event_keys=b"".join(map(event_key, ids)))
    assert all(user.remembers(event_key(each)) for each in ids)
    assert user.remembers(event_key(other)) == (other in ids)


def test_a_key_is_not_found_astride_two_others() -> None:
    one, other = event_key(1), event_key(2)
    assert not User(event_keys=one + other).remembers((one + other)[3:11])


@given(st.binary(max_size=64), st.binary(max_size=64), st.integers(0, 9))
def test_a_packed_user_comes_back(history: bytes, context: bytes, num_keys: int) -> None:
    user = User(
        frontier_ms=5,
        active_ms=-1,
        touch=9,
        lifetime_tokens=2**40,
        history=history,
        event_keys=b"k" * 8 * num_keys,
        amendments=b"a" * num_keys,
        context=context,
    )
    assert unpack_user(user.pack()) == user


@given(st.integers(0, 9), st.binary(max_size=64))
def test_packed_waiting_events_come_back(num_pending: int, observed: bytes) -> None:
    waiting = Waiting(6, 7, b"p" * EVENT_STRUCT.size * num_pending, observed)
    assert unpack_waiting(waiting.pack()) == waiting
