"""Users' states, from the messages of `sequences`."""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from features.sequences import TARGET_ONLY_BIT, Counters, Progress, encode_progress
from ingest.runtime.kafka import Record
from publisher.serving.users import UserStates
from tests.publisher.tiny import correction_record, targets_record, tiny_tokens


def value_of(name: str, labels: dict[str, str] | None = None) -> float:
    return REGISTRY.get_sample_value(name, labels or {}) or 0.0


def with_negative_item() -> npt.NDArray[np.void]:
    tokens = tiny_tokens(0, 3)
    tokens["item_id"][1] = -5
    return tokens


def test_a_message_replaces_its_user_whole_targets_included() -> None:
    users = UserStates(max_users=10, max_history=8)
    users.apply([targets_record(1, tiny_tokens(0, 3), offset=4)])
    newer = tiny_tokens(1, 12)
    users.apply([targets_record(1, newer, offset=5, num_targets=3)])
    state = users.get(1)
    assert state is not None
    assert np.array_equal(state.tokens, newer[-8:])
    assert (state.partition, state.offset) == (0, 5)
    assert users.get(2) is None


@settings(max_examples=60)
@given(data=st.data(), max_history=st.integers(1, 12))
def test_after_any_messages_the_history_is_that_of_the_next_message(
    data: st.DataObject, max_history: int
) -> None:
    told = tiny_tokens(0, 40)  # the features job's own history, every token in it a target once
    seen = told.copy()  # the same as targets may see it, who opened before some late events
    waiting: list[tuple[int, int]] = []
    users = UserStates(max_users=10, max_history=max_history)
    num_told = 0
    for offset in range(data.draw(st.integers(1, 12))):
        late = data.draw(st.booleans()) if num_told else False
        if late:
            at = data.draw(st.integers(0, num_told - 1))
            bits = 1 << data.draw(st.integers(0, 12))
            record = correction_record(5, told[: at + 1], bits, offset=offset)
            told["actions"][at] |= bits
            waiting.append((at, bits))
        else:
            for _ in range(data.draw(st.integers(0, len(waiting)))):
                at, bits = waiting.pop(0)
                seen["actions"][at] |= bits
            num_targets = data.draw(st.integers(1, 3))
            num_told += num_targets
            record = targets_record(5, seen[:num_told], offset=offset, num_targets=num_targets)
        users.apply([record])
        state = users.get(5)
        assert state is not None
        assert np.array_equal(state.tokens, told[:num_told][-max_history:])


def test_a_target_that_will_be_no_history_is_not_kept() -> None:
    tokens = tiny_tokens(0, 5)
    tokens["actions"][[2, 4]] |= TARGET_ONLY_BIT
    users = UserStates(max_users=1, max_history=3)
    users.apply([targets_record(1, tokens, num_targets=3)])
    state = users.get(1)
    assert state is not None
    assert np.array_equal(state.tokens, tokens[[0, 1, 3]])


def test_a_correction_of_what_is_not_kept_changes_nothing_and_is_counted() -> None:
    users = UserStates(max_users=10, max_history=2)
    name = "freshet_serving_corrections_total"
    before = {r: value_of(name, {"result": r}) for r in ("applied", "not_kept")}
    tokens = tiny_tokens(0, 5)
    users.apply([targets_record(1, tokens, offset=0)])
    kept = users.get(1)
    users.apply([correction_record(2, tokens, 1 << 9), correction_record(1, tokens[:3], 1 << 9)])
    assert users.get(1) is kept
    assert users.get(2) is None
    users.apply([correction_record(1, tokens[:4], 1 << 9, offset=7)])
    changed = users.get(1)
    assert changed is not None
    assert (changed.offset, changed.newest_offset) == (0, 7)
    after = {r: value_of(name, {"result": r}) - count for r, count in before.items()}
    assert after == {"applied": 1, "not_kept": 2}


@given(
    user_ids=st.lists(st.integers(0, 6), max_size=40),
    max_users=st.integers(1, 5),
    reads=st.lists(st.integers(0, 6)),
)
def test_the_users_longest_without_a_message_go_whoever_was_read(
    user_ids: list[int], max_users: int, reads: list[int]
) -> None:
    users = UserStates(max_users=max_users, max_history=4)
    for offset, user_id in enumerate(user_ids):
        users.apply([targets_record(user_id, tiny_tokens(0, 2), offset=offset)])
        for read in reads:
            users.get(read)
    newest_first = list(dict.fromkeys(reversed(user_ids)))[:max_users]
    assert {u for u in range(7) if users.get(u) is not None} == set(newest_first)
    assert len(users) == len(newest_first)


@given(garbage=st.binary(max_size=200))
def test_corrupt_messages_are_counted_and_the_next_ones_read(garbage: bytes) -> None:
    users = UserStates(max_users=10, max_history=8)
    before = value_of("freshet_serving_corrupt_messages_total")
    torn = targets_record(1, tiny_tokens(0, 3))._replace(
        value=targets_record(1, tiny_tokens(0, 3)).value[:-1]
    )
    users.apply([Record(0, 0, 0, None, garbage, ()), torn, targets_record(2, tiny_tokens(0, 1))])
    assert value_of("freshet_serving_corrupt_messages_total") == before + 2
    assert users.get(1) is None
    assert users.get(2) is not None


def test_progress_shows_how_current_histories_are() -> None:
    users = UserStates(max_users=10, max_history=8)
    progress = Progress(partition=3, clock_ms=5_500, next_offset=9, counters=Counters())
    users.apply([Record(3, 0, 0, b"k", encode_progress(progress), ())])
    name = "freshet_serving_users_event_timestamp_seconds"
    assert value_of(name, {"partition": "3"}) == 5.5


@given(
    clocks_ms=st.lists(st.lists(st.integers(0, 5), max_size=12), min_size=2, max_size=2),
    max_users=st.integers(1, 5),
    corrected=st.lists(st.integers(0, 3), max_size=12),
    interleaving=st.randoms(use_true_random=False),
)
def test_who_is_kept_does_not_depend_on_how_the_partitions_interleave(
    clocks_ms: list[list[int]],
    max_users: int,
    corrected: list[int],
    interleaving: random.Random,
) -> None:
    tokens = tiny_tokens(0, 1)
    lines = [
        [
            (
                correction_record(user, tokens, 1 << 9, **place)
                if user // 2 in corrected[:offset]
                else targets_record(user, tokens, **place)
            )
            for offset, clock in enumerate(sorted(clocks))
            for user in [offset % 4 * 2 + partition]
            for place in [{"partition": partition, "offset": offset, "clock_ms": clock}]
        ]
        for partition, clocks in enumerate(clocks_ms)
    ]
    order = [0] * len(lines[0]) + [1] * len(lines[1])
    kept = []
    for arranged in (order, order[::-1], interleaving.sample(order, len(order))):
        waiting = [iter(line) for line in lines]
        users = UserStates(max_users=max_users, max_history=4)
        users.apply([next(waiting[partition]) for partition in arranged])
        kept.append({user: s.packed for user in range(8) if (s := users.get(user)) is not None})
    assert kept[0] == kept[1] == kept[2]
    assert len(kept[0]) == len(users) <= max_users


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (targets_record(1, tiny_tokens(0, 3))._replace(partition=1), "another partition"),
        (targets_record(-1, tiny_tokens(0, 3)), "negative id"),
        (targets_record(1, with_negative_item()), "negative id"),
    ],
)
def test_what_the_trainer_refuses_is_not_served(record: Record, reason: str) -> None:
    users = UserStates(max_users=10, max_history=8)
    with capture_logs() as logs:
        users.apply([record])
    assert len(users) == 0
    assert reason in logs[0]["error"]
