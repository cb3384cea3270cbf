"""The conservation law's audit and the account of the sequences topic it rests on."""

from __future__ import annotations

import dataclasses

import pytest

from deploy.conservation import Audit
from deploy.sequence_log import SequenceAccount
from features.sequences import (
    TOKEN_STRUCT,
    Counters,
    Progress,
    encode_correction,
    encode_progress,
    encode_targets,
)
from ingest.runtime.kafka import Record

GOOD = Audit(
    counters=Counters(
        events=13,
        targets=4,
        corrections=2,
        folded=2,
        duplicates=1,
        late=1,
        dead=2,
        heartbeats=3,
        filtered=1,
    ),
    events_sent=13,
    events_in_topic=16,
    targets_in_topic=4,
    distinct_targets=4,
    corrections_in_topic=2,
    distinct_corrections=2,
    targets_trained=4,
    corrections_trained=2,
    late_in_topic=1,
    dead_in_topic=2,
    dead_at_door=0,
)


def record(offset: int, value: bytes, partition: int = 0) -> Record:
    return Record(partition, offset, 1_000 + offset, None, value, ())


def targets(*opened: int, history: int = 0, user_id: int = 7) -> bytes:
    tokens = TOKEN_STRUCT.pack(1, 2, 0, 0, 1) * (history + len(opened))
    return encode_targets(
        partition=0,
        user_id=user_id,
        clock_ms=5,
        first_offset=min(opened),
        last_offset=max(opened),
        lifetime_tokens=0,
        tokens=tokens,
        target_offsets=list(opened),
    )


def correction(offset: int) -> bytes:
    return encode_correction(
        partition=0,
        user_id=7,
        clock_ms=5,
        offset=offset,
        lifetime_tokens=0,
        tokens=TOKEN_STRUCT.pack(1, 2, 0, 0, 1),
        changed=1,
    )


def progress(next_offset: int, **counters: int) -> bytes:
    return encode_progress(
        Progress(partition=0, clock_ms=5, next_offset=next_offset, counters=Counters(**counters))
    )


def test_a_run_that_lost_nothing_has_no_problems() -> None:
    assert GOOD.problems() == []


@pytest.mark.parametrize(
    "field", [f.name for f in dataclasses.fields(Audit) if f.name != "counters"]
)
def test_one_record_more_anywhere_is_noticed(field: str) -> None:
    assert dataclasses.replace(GOOD, **{field: getattr(GOOD, field) + 1}).problems()


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Counters)])
def test_one_count_more_in_any_counter_is_noticed(field: str) -> None:
    wrong = dataclasses.replace(GOOD.counters, **{field: getattr(GOOD.counters, field) + 1})
    assert dataclasses.replace(GOOD, counters=wrong).problems()


def test_the_account_counts_targets_and_tells_repeated_ones() -> None:
    account = SequenceAccount([0])
    account.add([record(0, targets(3, 4)), record(1, targets(9, history=2)), record(2, targets(4))])
    assert account.num_targets() == 4
    assert account.num_distinct_targets() == 3
    assert account.num_targets_after({0: 1}) == 2
    assert list(account.opened_since({0: 4})) == [(0, 4, 0), (0, 9, 1), (0, 4, 2)]
    assert account.newest_learned_ms({0: 2}) == 1_001
    assert account.newest_learned_ms({0: 0}) is None


def test_the_account_counts_corrections_and_tells_repeated_ones() -> None:
    account = SequenceAccount([0])
    account.add([record(0, targets(3)), record(1, correction(9)), record(2, correction(9))])
    assert (account.num_targets(), account.num_corrections()) == (1, 2)
    assert account.num_distinct_corrections() == 1
    assert account.num_targets_after({0: 1}) == 0
    assert not account.learned_by({0: 2}), "a correction is to be learned too"
    assert account.learned_by({0: 3})
    assert list(account.opened_since({0: 0})) == [(0, 3, 0)]


def test_a_run_is_closed_when_the_job_has_passed_every_event_and_learned_when_training_has() -> (
    None
):
    account = SequenceAccount([0])
    assert not account.closed({0: 1})
    account.add([record(0, targets(3)), record(1, progress(4, events=4))])
    assert account.closed({0: 4})
    assert not account.closed({0: 5})
    assert not account.learned_by({0: 0})
    assert account.learned_by({0: 1}), "a progress message holds nothing to learn"


def test_the_newest_counters_of_a_partition_count() -> None:
    account = SequenceAccount([0])
    account.add([record(0, progress(4, events=4)), record(1, progress(9, events=9, late=1))])
    assert account.counters() == Counters(events=9, late=1)
