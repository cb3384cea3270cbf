"""Late events and purchases long after their click: what becomes a correction, and who may see it."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from features.amendments import Amendment, find_token, history_before, settle
from features.config import FeaturesConfig
from features.offline import Record
from features.outputs import Output
from features.sequences import TOKEN_STRUCT, Correction, Sequence
from ingest.events import (
    ACTION_BITS,
    LONG_WATCH_BIT,
    Event,
    InvalidEvent,
    decode_record,
    encode_record,
)
from tests.features.logs import CONFIG, beat, configs, event, logs, run
from tests.features.reference import plain_messages
from tests.features.test_assembler import END, flushed, messages, sequences

CORRECTING = replace(CONFIG, correction_window_ms=1_000)
ATTRIBUTING = replace(CONFIG, attribution_ms=500)
CLICK, PURCHASE, RETURN = ACTION_BITS["click"], ACTION_BITS["purchase"], ACTION_BITS["return"]
CLICKED: list[Record] = [(0, 1_000, event(1_000, id=1)), (1, 1_100, beat(1_100))]


def corrections(outputs: list[Output]) -> list[Correction]:
    return [message for message in messages(outputs) if isinstance(message, Correction)]


def late_topic(outputs: list[Output]) -> list[Output]:
    return [output for output in outputs if output.topic == "events.late"]


def test_a_late_purchase_corrects_the_click_it_belongs_to() -> None:
    late = event(1_030, id=2, action="purchase", price_minor=7, watch_ms=10)
    outputs, assembler = run([*CLICKED, (2, 1_100, late)], CORRECTING)
    (correction,) = corrections(outputs)
    assert correction.changed == PURCHASE | LONG_WATCH_BIT
    assert correction.offset == 2
    assert correction.tokens.tolist()[-1][:4] == (1, 1_000, 7, 10)
    assert correction.tokens["actions"][-1] & (CLICK | PURCHASE) == CLICK | PURCHASE
    counters = assembler.progress().counters
    assert (counters.targets, counters.corrections, counters.late) == (1, 1, 0)


@pytest.mark.parametrize(
    ("time_ms", "item", "clock_ms"), [(1_031, 1, 1_100), (1_010, 2, 1_100), (1_010, 1, 2_011)]
)
def test_out_of_the_window_of_another_item_or_too_old_it_stays_late(
    time_ms: int, item: int, clock_ms: int
) -> None:
    log = [*CLICKED, (2, 3_000, beat(clock_ms)), (3, 3_000, event(time_ms, id=2, item=item))]
    outputs, assembler = run(log, CORRECTING)
    (late,) = late_topic(outputs)
    assert late.headers is not None
    assert late.headers["late_ms"] == str(clock_ms - CORRECTING.bound_ms - time_ms)
    assert assembler.progress().counters.late == 1


def test_a_late_event_without_news_only_folds_in() -> None:
    outputs, assembler = run([*CLICKED, (2, 1_100, event(1_020, id=2))], CORRECTING)
    counters = assembler.progress().counters
    assert (len(corrections(outputs)), counters.corrections, counters.folded) == (0, 0, 1)


def test_a_late_event_joins_a_token_that_still_waits() -> None:
    waiting = replace(CORRECTING, emit_after_ms=500)
    log = [
        (0, 1_000, event(1_000, id=1)),
        (1, 1_200, beat(1_200)),
        (2, 1_200, event(1_030, id=2, action="purchase")),
        (3, 2_000, END),
    ]
    (message,) = messages(run(log, waiting)[0])
    assert isinstance(message, Sequence)
    assert message.tokens["actions"][0] & (CLICK | PURCHASE) == CLICK | PURCHASE


def test_a_purchase_long_after_the_click_corrects_it_when_attributed() -> None:
    bought = event(1_400, id=2, action="purchase", price_minor=9)
    returned = event(1_480, id=3, action="return", price_minor=4)
    again = event(1_490, id=4, item=1, action="purchase")
    log = [*CLICKED, (2, 1_400, bought), (3, 1_490, returned), (4, 1_490, again), (5, 2_000, END)]
    outputs, assembler = run(log, replace(ATTRIBUTING, join_window_ms=5))
    first, second = corrections(outputs)
    assert (first.changed, first.tokens["price_minor"][-1]) == (PURCHASE, 9)
    assert (second.changed, second.tokens["price_minor"][-1]) == (RETURN, 5)
    # The click has its purchase already: another one is a target of its own.
    counters = assembler.progress().counters
    assert (counters.targets, counters.corrections, counters.folded) == (2, 2, 0)
    assert corrections(run(log, replace(CONFIG, join_window_ms=5))[0]) == []


def test_a_target_does_not_see_a_purchase_that_happened_after_it_opened() -> None:
    config = replace(ATTRIBUTING, bound_ms=0, correction_window_ms=1_000, max_targets=1)
    log = [
        *CLICKED,
        (2, 1_300, beat(1_299)),
        (3, 1_300, event(1_250, id=2, action="purchase")),  # late: corrects at once
        (4, 1_300, event(1_300, id=3, item=2)),
        (5, 1_400, beat(1_400)),
        (6, 1_400, event(1_290, id=4, item=2, action="watch")),
        (7, 2_000, END),
    ]
    outputs, _ = run(log, config)
    assert [m.changed for m in corrections(outputs)] == [PURCHASE]
    behind = messages(outputs)[-1]
    assert behind.tokens["actions"][0] & PURCHASE
    # The same with the purchase after the next click, yet known before that is emitted.
    log[3], log[4] = (3, 1_300, event(1_300, id=3, item=2)), (4, 1_310, beat(1_310))
    log[5] = (5, 1_310, event(1_305, id=2, action="purchase"))
    outputs, _ = run([*log[:6], log[7]], config)
    _, correction, behind = messages(outputs)
    assert isinstance(correction, Correction)
    assert not behind.tokens["actions"][0] & PURCHASE


@given(logs(), configs())
def test_everything_in_a_history_happened_before_what_it_is_a_history_to(
    log: list[Record], config: FeaturesConfig
) -> None:
    for message in plain_messages(config, flushed(log)):
        opened_ms = message.targets[0].first_ms
        for token, row in zip(message.seen, message.rows, strict=False):
            # What came to the token after this message may be missing, never the other way round.
            assert row[4] & ~token.row(config, opened_ms)[4] == 0
            assert token.first_ms < opened_ms


def altered(raw: bytes, after_ms: int) -> bytes:
    """The record; an event past a time watched longer, cost otherwise and came in another context."""
    try:
        record = decode_record(raw)
    except InvalidEvent:
        return raw
    if not isinstance(record, Event) or record.event_time_ms <= after_ms:
        return raw
    action = "like" if record.action == "click" else record.action
    return encode_record(
        msgspec.structs.replace(
            record, action=action, watch_ms=99, price_minor=3, context={"device": 9, "plan": 9}
        )
    )


@given(logs(), configs(), st.data())
def test_what_happens_later_never_changes_what_a_target_saw(
    log: list[Record], config: FeaturesConfig, data: st.DataObject
) -> None:
    log = flushed(log)
    found = sequences(run(log, config)[0])
    assume(found)
    message = data.draw(st.sampled_from(found))
    after_ms = int(message.tokens["event_time_ms"][-1]) + config.join_window_ms
    changed = [(at, arrival_ms, altered(raw, after_ms)) for at, arrival_ms, raw in log]
    same = [each.tokens.tobytes() for each in sequences(run(changed, config)[0])]
    assert message.tokens.tobytes() in same


@given(logs(), configs(max_amendments=1))
def test_at_the_bound_of_amendments_events_are_refused_and_none_is_lost(
    log: list[Record], config: FeaturesConfig
) -> None:
    outputs, assembler = run(flushed(log), config)
    counters = assembler.progress().counters
    assert counters.imbalance() == counters.pending == 0
    assert counters.corrections == len(corrections(outputs))
    assert counters.late == len(late_topic(outputs))


def test_the_newest_token_of_an_item_is_found_on_record_bounds_alone() -> None:
    # The second record's price is the item's id: no token of it.
    history = TOKEN_STRUCT.pack(7, 100, 0, 0, CLICK) + TOKEN_STRUCT.pack(8, 200, 7, 0, CLICK)
    assert find_token(history, 7, 0, 900) == 0
    assert find_token(history, 7, 101, 900) == find_token(history, 9, 0, 900) == -1
    assert [len(history_before(history, ms)) for ms in (100, 101, 201)] == [0, 32, 64]


def test_amendments_of_one_token_are_settled_in_the_order_in_which_they_came() -> None:
    history = TOKEN_STRUCT.pack(7, 100, 0, 0, CLICK)
    first, second = (Amendment(ms, 7, 100, price, 0, 0, 0) for ms, price in [(120, 5), (110, 9)])
    bounds = {"join_window_ms": 30, "floor_ms": 0}
    same, left = settle(history, [first, second], 10, frontier_ms=115, **bounds)
    assert (same, left) == (history, [first, second])
    settled, left = settle(history, [first, second], 10, frontier_ms=120, **bounds)
    assert (TOKEN_STRUCT.unpack(settled)[2], left) == (9, [])
    assert settle(b"", [first], 10, frontier_ms=0, **bounds) == (b"", [])


def test_the_example_of_the_rooms_page_is_what_happens() -> None:
    noon_ms = 1_700_000_000_000
    log = [
        (0, event(noon_ms, id=0, user=7, item=1)),
        (1, event(noon_ms + 40_000, id=1, user=7, item=1, action="watch")),
        (2, event(noon_ms + 20_000, id=2, user=7, item=2)),
        (3, event(noon_ms + 50_000, id=3, user=7, item=3, action="impression")),
        (4, beat(noon_ms + 71_000)),
        (5, event(noon_ms + 55_000, id=5, user=7, item=1, action="like")),
        (6, event(noon_ms + 75_000, id=6, user=7, item=1, action="purchase")),
        (7, beat(noon_ms + 150_000)),
    ]
    outputs, _ = run([(at, noon_ms + 150_000, raw) for at, raw in log], FeaturesConfig())
    assert [output.topic for output in outputs] == [
        "events.late",
        "sequences",
        "sequences",
        "sequences",
    ]
    first, correction, last = messages(outputs)
    assert isinstance(first, Sequence)
    assert (first.clock_ms, first.target_offsets.tolist()) == (noon_ms + 71_000, [0])
    assert isinstance(correction, Correction)
    assert (correction.offset, correction.changed) == (5, ACTION_BITS["like"])
    assert last.tokens["item_id"].tolist() == [1, 3, 1]
    assert not last.tokens["actions"][0] & ACTION_BITS["like"]
