"""The partition's state machine: what comes out of a log, and what does not change it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.assembler import PartitionAssembler
from features.config import FeaturesConfig
from features.offline import Record, assemble
from features.outputs import Output
from features.sequences import SESSION_START_BIT, Correction, Sequence, decode
from features.stores import MemoryStore, Stores
from ingest.events import MAX_EVENT_BYTES
from ingest.runtime.errors import FreshetError
from tests.features.logs import CONFIG, CONFIGS, beat, event, logs, run
from tests.features.reference import PlainToken, plain_messages

END = beat(2_000)


def messages(outputs: list[Output]) -> list[Sequence | Correction]:
    found = [decode(output.value) for output in outputs if output.topic == "sequences"]
    return [message for message in found if isinstance(message, Sequence | Correction)]


def sequences(outputs: list[Output]) -> list[Sequence]:
    return [message for message in messages(outputs) if isinstance(message, Sequence)]


def copied(store: MemoryStore) -> MemoryStore:
    copy = MemoryStore()
    copy.put(dict(store.items()))
    return copy


def flushed(log: list[Record]) -> list[Record]:
    """The log with a heartbeat that lets everything out."""
    offset, arrival_ms, _ = log[-1] if log else (0, 1_000, b"")
    last = [(offset + 1, arrival_ms + 10_000, beat(arrival_ms + 9_000))]
    return log + last


@given(logs(), CONFIGS)
def test_agrees_with_a_plain_reimplementation(log: list[Record], config: FeaturesConfig) -> None:
    outputs, _ = run(flushed(log), config)
    found = [
        (
            m.user_id,
            m.clock_ms,
            m.lifetime_tokens,
            m.tokens.tolist(),
            m.target_offsets.tolist() if isinstance(m, Sequence) else [m.offset],
            m.changed if isinstance(m, Correction) else None,
        )
        for m in messages(outputs)
    ]
    plain = [
        (m.user_id, m.clock_ms, m.lifetime_tokens, m.rows, m.offsets, m.changed)
        for m in plain_messages(config, flushed(log))
    ]
    # Users due in the same advance come by due time, in the reference by user.
    assert sorted(found, key=lambda m: m[:2]) == sorted(plain, key=lambda m: m[:2])


@given(logs(), CONFIGS)
def test_no_history_token_peeks_at_or_past_a_target(
    log: list[Record], config: FeaturesConfig
) -> None:
    for message in plain_messages(config, flushed(log)):
        first_ms = min(token.first_ms for token in message.targets)
        assert all(token.first_ms < first_ms for token in message.seen)
        tokens = [token for token in message.seen if isinstance(token, PlainToken)]
        assert all(token.last_ms < first_ms for token in tokens)


@given(logs(), CONFIGS)
def test_every_event_is_counted_once_after_every_record(
    log: list[Record], config: FeaturesConfig
) -> None:
    assembler = PartitionAssembler(config, 0, 1)
    num_targets = num_corrections = num_late = num_dead = 0
    for number, record in enumerate(log, start=1):
        outputs = assembler.process(*record)
        num_targets += sum(message.num_targets for message in sequences(outputs))
        num_corrections += sum(isinstance(m, Correction) for m in messages(outputs))
        num_late += sum(output.topic == "events.late" for output in outputs)
        num_dead += sum(output.topic == "events.dead" for output in outputs)
        counters = assembler.progress().counters
        assert counters.imbalance() == 0
        assert counters.events + counters.heartbeats == number
        assert (counters.late, counters.dead) == (num_late, num_dead)
        assert (counters.targets, counters.corrections) == (num_targets, num_corrections)


@given(logs(), CONFIGS)
def test_every_event_opens_or_joins_exactly_one_target(
    log: list[Record], config: FeaturesConfig
) -> None:
    outputs, assembler = run(flushed(log), config)
    found = sequences(outputs)
    opened = [offset for message in found for offset in message.target_offsets.tolist()]
    assert len(opened) == len(set(opened)) == assembler.progress().counters.targets
    assert assembler.progress().counters.pending == 0
    for message in found:
        assert message.first_offset == min(message.first_offset, *message.target_offsets.tolist())
        assert message.last_offset >= max(message.target_offsets.tolist())


@given(logs(), CONFIGS, st.data())
def test_saving_and_restoring_anywhere_changes_nothing(
    log: list[Record], config: FeaturesConfig, data: st.DataObject
) -> None:
    expected, whole = run(log, config)
    stores = Stores()
    assembler = PartitionAssembler(config, 0, 1, stores)
    outputs: list[Output] = []
    for record in log:
        outputs += assembler.process(*record)
        step = data.draw(st.sampled_from(["go on", "save", "restore"]))
        if step != "go on":
            meta = assembler.save()
        if step == "restore":
            stores = Stores(*[copied(s) for s in (stores.users, stores.waiting, stores.touches)])
            assembler = PartitionAssembler(config, 0, 1, stores)
            assembler.restore(meta)
    assert outputs == expected
    assert assembler.tally == whole.tally
    assert assembler.num_users == whole.num_users


@given(logs(), CONFIGS, st.data())
def test_what_comes_later_does_not_change_what_came_out(
    log: list[Record], config: FeaturesConfig, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(log)))
    tail = data.draw(st.permutations(log[cut:]))
    moved = [
        (offset, arrival_ms, raw)
        for (offset, _, _), (_, arrival_ms, raw) in zip(log[cut:], tail, strict=True)
    ]
    before, _ = run(log[:cut], config)
    after, _ = run(log[:cut] + moved, config)
    assert after[: len(before)] == before


@given(logs(), CONFIGS)
def test_the_clock_of_messages_never_runs_back(log: list[Record], config: FeaturesConfig) -> None:
    outputs, assembler = run(log, config)
    clocks_ms = [message.clock_ms for message in sequences(outputs)]
    assert clocks_ms == sorted(clocks_ms)
    assert all(clock_ms <= assembler.progress().clock_ms for clock_ms in clocks_ms)


@given(logs(), CONFIGS)
def test_offline_writes_what_the_assembler_writes(
    log: list[Record], config: FeaturesConfig
) -> None:
    outputs, assembler = run(log, config)
    assert list(assemble(config, 0, 1, log)) == [*outputs, assembler.progress()]


def test_click_and_purchase_in_the_window_are_one_token() -> None:
    log = [
        (0, 1_000, event(1_000, id="a", action="click")),
        (1, 1_000, event(1_030, id="b", action="purchase", price_minor=499)),
        (2, 2_000, END),
    ]
    outputs, assembler = run(log)
    (message,) = sequences(outputs)
    assert message.tokens.tolist() == [(1, 1_000, 499, 0, 2 | 32 | SESSION_START_BIT)]
    assert (assembler.progress().counters.targets, assembler.progress().counters.folded) == (1, 1)


def test_an_earlier_event_that_arrives_later_opens_the_token() -> None:
    log = [
        (0, 1_000, event(1_010, id=1)),
        (1, 1_000, event(1_000, id=2)),
        (2, 1_000, event(1_031, id=3)),
        (3, 2_000, END),
    ]
    (message,) = sequences(run(log)[0])
    assert message.target_offsets.tolist() == [1, 2]
    assert message.tokens["event_time_ms"].tolist() == [1_000, 1_031]
    assert (message.first_offset, message.last_offset) == (0, 2)


def test_a_tie_goes_to_the_lower_offset() -> None:
    log = [
        (5, 1_000, event(1_000, id=1, action="click")),
        (6, 1_000, event(1_000, id=2, action="purchase")),
        (7, 2_000, END),
    ]
    (message,) = sequences(run(log)[0])
    assert message.target_offsets.tolist() == [5]


def test_targets_at_the_same_time_stay_in_one_message_beyond_k() -> None:
    log = [(at, 1_000, event(1_000, id=at, item=at)) for at in range(5)]
    (message,) = sequences(run([*log, (9, 2_000, END)])[0])
    assert message.num_targets == 5 > CONFIG.max_targets


def test_a_token_waits_for_the_one_it_overlaps() -> None:
    log = [
        (0, 1_000, event(1_000, id=1, item=1)),
        (1, 1_000, event(1_020, id=2, item=2)),
        (2, 1_000, event(1_025, id=3, item=1)),
        (3, 1_060, event(1_060, id=4, item=3)),
        (4, 1_070, beat(1_065)),
        (5, 1_080, beat(1_070)),
    ]
    outputs, assembler = run(log)
    assert sequences(outputs) == []
    (message,) = sequences(assembler.process(6, 1_090, beat(1_071)))
    assert message.tokens["item_id"].tolist() == [1, 2]
    assert message.target_offsets.tolist() == [0, 1]


def test_an_event_that_splits_an_overlap_lets_the_user_out_earlier() -> None:
    config = FeaturesConfig(bound_ms=50, join_window_ms=30, emit_after_ms=40)
    times_ms = {1: [1_000, 1_020], 2: [1_015, 1_045], 3: [1_044, 1_074], 4: [1_070]}
    pairs = [(time_ms, item) for item, times in times_ms.items() for time_ms in times]
    log = [(at, 1_100, event(t, id=at, item=item)) for at, (t, item) in enumerate(pairs)]
    held, assembler = run([*log, (10, 1_100, beat(1_091))], config)
    assert held == []
    # Opens item 3's token earlier, so that its event at 1 074 is another token.
    assembler.process(11, 1_100, event(1_042, id=11, item=3))
    (message,) = sequences(assembler.process(12, 1_123, beat(1_123)))
    assert message.tokens["item_id"].tolist() == [1, 2, 3]


def test_a_second_delivery_is_a_duplicate_even_when_late() -> None:
    log = [
        (0, 1_000, event(1_000, id="a")),
        (1, 2_000, END),
        (2, 2_000, event(1_000, id="a")),
        (3, 2_000, event(1_000, id="b")),
        (4, 2_000, event(1_000, id="b")),
    ]
    outputs, assembler = run(log)
    counters = assembler.progress().counters
    assert (counters.duplicates, counters.late) == (2, 1)
    (late,) = [output for output in outputs if output.topic == "events.late"]
    assert late.value == log[3][2]
    assert late.headers == {"reason": "behind_horizon", "late_ms": "980", "source": "events/0/3"}


def test_an_id_is_forgotten_after_as_many_newer_ones() -> None:
    log = [(at, 1_000, event(1_000, id=at % 5, item=at)) for at in range(6)]
    _, assembler = run(log)
    assert assembler.progress().counters.duplicates == 0
    assert run([*log[:4], (9, 1_000, log[0][2])])[1].progress().counters.duplicates == 1


def test_an_integer_id_and_its_text_are_two_events() -> None:
    _, assembler = run([(0, 1_000, event(1_000, id=7)), (1, 1_000, event(1_000, id="7"))])
    assert assembler.progress().counters.duplicates == 0


def test_the_pending_bound_forces_everything_out() -> None:
    log = [(at, 1_000, event(1_000 + at, id=at, item=at)) for at in range(7)]
    outputs, assembler = run(log)
    assert sum(message.num_targets for message in sequences(outputs)) == 7
    assert (assembler.tally.forced_emissions, assembler.progress().counters.pending) == (1, 0)
    (late,) = assembler.process(8, 1_010, event(1_006, id=99))
    assert late.headers is not None
    assert late.headers["reason"] == "behind_frontier"


@pytest.mark.parametrize("raw", [event(9_000, id=1), beat(9_000)])
def test_a_time_far_past_arrival_is_dead_and_leaves_the_clock(raw: bytes) -> None:
    (dead,), assembler = run([(3, 1_000, raw)])
    assert dead.topic == "events.dead"
    assert dead.value == raw
    assert dead.headers is not None
    assert dead.headers["reason"] == "future"
    assert dead.headers["source"] == dead.key == "events/0/3"
    assert assembler.clock_ms == -1


def test_a_user_of_another_partition_is_dead() -> None:
    assembler = PartitionAssembler(CONFIG, 1, 2)
    found = [assembler.process(u, 1_000, event(1_000, id=u, user=u)) for u in range(8)]
    reasons = [outputs[0].headers["reason"] for outputs in found if outputs and outputs[0].headers]
    assert 0 < len(reasons) < 8
    assert set(reasons) == {"wrong_partition"}


@pytest.mark.parametrize("raw", [b"", b"\x00\x1e\xff", "{\u0100}".encode(), b'{"action":"\xf0"}'])
def test_a_dead_record_keeps_its_bytes_and_says_why_in_ascii(raw: bytes) -> None:
    (dead,), _ = run([(0, 1_000, raw)])
    assert dead.value == raw
    assert dead.headers is not None
    assert all(text.isascii() and text.isprintable() for text in dead.headers.values())


def test_a_dead_record_is_cut_so_that_its_headers_fit_beside_it() -> None:
    raw = b"x" * 1_048_450
    (dead,), _ = run([(0, 1_000, raw)])
    assert dead.headers is not None
    assert dead.value == raw[:MAX_EVENT_BYTES]
    assert "1048450" in dead.headers["detail"]
    room = 1_048_576 - MAX_EVENT_BYTES
    assert len(dead.key) + sum(len(k) + len(v) + 9 for k, v in dead.headers.items()) < room // 2


def test_history_is_the_newest_emitted_tokens() -> None:
    log = [(at, 9_000, event(1_000 + 100 * at, id=at, item=at)) for at in range(9)]
    last = sequences(run([*log, (9, 9_000, beat(9_000))])[0])[-1]
    assert last.tokens["item_id"].tolist() == [3, 4, 5, 6, 7, 8]


def test_an_offset_read_twice_is_an_error() -> None:
    _, assembler = run([(4, 1_000, event(1_000, id=1))])
    with pytest.raises(FreshetError, match="out of order"):
        assembler.process(4, 1_000, event(1_000, id=1))


def test_state_of_another_partition_count_is_refused() -> None:
    _, assembler = run([])
    with pytest.raises(FreshetError, match="does not fit"):
        PartitionAssembler(CONFIG, 0, 2).restore(assembler.save())


@pytest.mark.parametrize("meta", [b"", b"\x01" + bytes(88), b"\x02"])
def test_state_of_another_layout_is_refused(meta: bytes) -> None:
    with pytest.raises(FreshetError, match="another layout"):
        PartitionAssembler(CONFIG, 0, 1).restore(meta)
