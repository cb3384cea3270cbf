"""The merge and the batches: functions of the log, whatever the polling."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.sequences import CorruptSequence, decode
from ingest.runtime.kafka import Record
from tests.trainer.streams import by_partition, end_ms, progress_record, recorded, targets_record
from trainer.export import Position
from trainer.stream import Batcher, Merge, Message, MessageBatch, owned_partitions, read_message

NUM_MESSAGES = 60
RECORDS = recorded(num_messages=NUM_MESSAGES, num_partitions=3)
START = {p: Position(offset=0) for p in range(3)}


def message_of(record: Record, arrived_seconds: float = 0.0) -> Message:
    return read_message(record, max_history=100, arrived_seconds=arrived_seconds)


def batches_from(
    positions: dict[int, Position], interleaving: np.random.Generator, token_budget: int = 40
) -> list[MessageBatch]:
    """Feed the log from `positions` on in random pieces, taking batches whenever there are any."""
    merge = Merge(positions, stop_at_clock_ms=end_ms(NUM_MESSAGES))
    batcher = Batcher(merge, token_budget=token_budget)
    left = [
        [r for r in of_one if r.offset >= positions[of_one[0].partition].offset]
        for of_one in by_partition(RECORDS)
    ]
    batches = []
    while any(left):
        of_one = left[int(interleaving.integers(0, len(left)))]
        count = int(interleaving.integers(0, 12))
        for record in of_one[:count]:
            merge.push(message_of(record))
        del of_one[:count]
        while (batch := batcher.next_batch(now_seconds=0.0)) is not None:
            batches.append(batch)
    assert batcher.ended
    return batches


WHOLE = batches_from(START, np.random.default_rng(0))


def test_batches_hold_every_message_once_in_order() -> None:
    messages = [message for message in map(message_of, RECORDS) if not message.is_progress]
    assert [v for batch in WHOLE for v in batch.values] == [m.value for m in sorted(messages)]


def test_only_the_last_batch_is_below_the_budget() -> None:
    num_tokens = {record.value: message_of(record).num_tokens for record in RECORDS}
    sizes = [sum(num_tokens[value] for value in batch.values) for batch in WHOLE]
    assert all(size >= 40 for size in sizes[:-1])
    assert all(size < 40 + max(num_tokens.values()) for size in sizes)


@given(st.integers(0, 10**9))
def test_polling_order_does_not_show_in_the_batches(seed: int) -> None:
    found = batches_from(START, np.random.default_rng(seed))
    assert [batch.values for batch in found] == [batch.values for batch in WHOLE]


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_restart_from_any_recorded_positions_gives_the_rest_of_the_batches(
    seed: int, other_seed: int
) -> None:
    first = batches_from(START, np.random.default_rng(seed))
    cut = seed % len(first)
    rest = batches_from(first[cut].positions, np.random.default_rng(other_seed))
    assert [b.values for b in rest] == [b.values for b in WHOLE[cut + 1 :]]


def test_positions_never_pass_an_untrained_message() -> None:
    done: set[tuple[int, int]] = set()
    by_value = {record.value: (record.partition, record.offset) for record in RECORDS}
    for batch in WHOLE:
        done |= {by_value[value] for value in batch.values}
        for record in RECORDS:
            if record.offset < batch.positions[record.partition].offset:
                is_targets = not message_of(record).is_progress
                assert not is_targets or (record.partition, record.offset) in done


def test_positions_only_advance() -> None:
    for earlier, later in pairwise(WHOLE):
        for partition, at in earlier.positions.items():
            assert later.positions[partition].offset >= at.offset
            assert later.positions[partition].clock_ms >= at.clock_ms


def test_a_message_waits_while_another_partition_may_still_show_its_clock() -> None:
    merge = Merge({0: Position(offset=0), 1: Position(offset=0)})
    merge.push(message_of(targets_record(1, 0, 10_000, user_id=1, tokens=[(1, 1)])))
    merge.push(message_of(progress_record(0, 0, 10_000)))
    assert merge.pop(now_seconds=0.0) is None
    merge.push(message_of(progress_record(0, 1, 10_001)))
    popped = merge.pop(now_seconds=0.0)
    assert popped is not None
    assert popped.partition == 1


def test_live_a_message_that_waited_too_long_goes_ahead_and_is_counted() -> None:
    merge = Merge({0: Position(offset=0), 1: Position(offset=0)}, max_wait_seconds=1.0)
    batcher = Batcher(merge, token_budget=100, max_wait_seconds=1.0)
    merge.push(message_of(targets_record(1, 0, 10_000, user_id=1, tokens=[(1, 1)]), 5.0))
    assert batcher.next_batch(now_seconds=6.0) is None
    batch = batcher.next_batch(now_seconds=6.1)
    assert batch is not None
    assert len(batch.values) == 1
    assert merge.num_forced == 1
    assert batch.positions[1].offset == 1


def test_nothing_behind_the_stop_clock_is_trained_however_much_was_polled() -> None:
    merge = Merge({0: Position(offset=0)}, stop_at_clock_ms=10_000)
    batcher = Batcher(merge, token_budget=1)
    for record in (
        targets_record(0, 0, 10_000, user_id=1, tokens=[(1, 1)]),
        progress_record(0, 1, 10_000),
        targets_record(0, 2, 10_000, user_id=2, tokens=[(2, 1)]),
    ):
        merge.push(message_of(record))
    batch = batcher.next_batch(now_seconds=0.0)
    assert batch is not None
    assert len(batch.values) == 1
    assert batcher.next_batch(now_seconds=0.0) is None
    assert batcher.ended
    assert merge.positions()[0] == Position(offset=2, clock_ms=10_000)
    assert Merge(merge.positions(), stop_at_clock_ms=10_000).ended


def test_a_corrupt_record_does_not_hold_up_its_partition() -> None:
    merge = Merge({0: Position(offset=0)})
    merge.skip(0, 0)
    assert merge.positions()[0].offset == 1
    merge.push(message_of(targets_record(0, 1, 10_000, user_id=1, tokens=[(1, 1)])))
    merge.skip(0, 2)
    assert merge.positions()[0].offset == 1
    assert merge.pop(now_seconds=0.0) is not None
    assert merge.positions()[0].offset == 3


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (targets_record(0, 0, 10_000, user_id=1, tokens=[(-5, 1)]), "negative id"),
        (targets_record(0, 0, 10_000, user_id=-2, tokens=[(5, 1)]), "negative id"),
        (progress_record(0, 0, 1)._replace(partition=3), "another partition"),
        (progress_record(0, 0, 1)._replace(value=b""), "too short"),
    ],
)
def test_what_is_no_message_is_refused_with_its_reason(record: Record, reason: str) -> None:
    with pytest.raises(CorruptSequence, match=reason):
        message_of(record)


def test_tokens_are_counted_as_the_model_will_read_them() -> None:
    record = targets_record(
        0, 0, 10_000, user_id=1, tokens=[(i, 1) for i in range(9)], num_targets=2
    )
    assert read_message(record, max_history=3, arrived_seconds=0.0).num_tokens == 5
    assert decode(record.value).clock_ms == 10_000


@given(st.integers(1, 9), st.integers(1, 20))
def test_ranks_share_the_partitions_with_no_gap_and_no_overlap(world: int, count: int) -> None:
    owned = [owned_partitions(range(count), rank=r, world=world) for r in range(world)]
    assert sorted(p for each in owned for p in each) == list(range(count))
