"""The event contract: what is written can be read, and nothing else gets in."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.events import (
    ACTIONS,
    MAX_EVENT_BYTES,
    MAX_ID,
    MAX_TIME_MS,
    Event,
    Heartbeat,
    InvalidEvent,
    decode_record,
    encode_record,
    partition_key,
)

REASONS = {"empty", "too_large", "malformed_json", "unknown_action", "invalid_field"}
GOOD = {"event_id": "a", "user_id": 1, "item_id": 2, "action": "click", "event_time_ms": 3}

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
events = st.builds(
    Event,
    event_id=st.integers(0, MAX_ID) | text.filter(bool),
    user_id=st.integers(0, MAX_ID),
    item_id=st.integers(0, MAX_ID),
    action=st.sampled_from(ACTIONS),
    event_time_ms=st.integers(0, MAX_TIME_MS),
    watch_ms=st.none() | st.integers(0, 2**32 - 1),
    duration_ms=st.none() | st.integers(0, 2**32 - 1),
    price_minor=st.none() | st.integers(0, 2**53),
    currency=st.none() | text.map(lambda name: name[:8]),
    request_id=st.none() | text | st.integers(0, MAX_ID),
    context=st.none() | st.dictionaries(text, text | st.booleans() | st.none(), max_size=3),
)


@given(events)
def test_an_event_that_is_written_is_read_as_it_was(event: Event) -> None:
    assert decode_record(encode_record(event)) == event


@given(st.integers(0, MAX_TIME_MS))
def test_a_heartbeat_that_is_written_is_read_as_it_was(heartbeat_ms: int) -> None:
    beat = Heartbeat(heartbeat_ms=heartbeat_ms)
    assert decode_record(encode_record(beat)) == beat


@given(st.binary(max_size=300))
def test_any_bytes_are_a_record_or_an_invalid_event(raw: bytes) -> None:
    check_total(raw)


@given(events, st.data())
def test_an_event_with_broken_bytes_is_a_record_or_an_invalid_event(
    event: Event, data: st.DataObject
) -> None:
    raw = bytearray(encode_record(event))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    check_total(bytes(raw[: data.draw(st.integers(0, len(raw)))]))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(Event.__struct_fields__)), json_values)
def test_any_value_of_any_field_is_a_record_or_an_invalid_event(name: str, value: object) -> None:
    try:
        raw = msgspec.json.encode({**GOOD, name: value})
    except (OverflowError, msgspec.MsgspecError):
        return
    check_total(raw)


def check_total(raw: bytes) -> None:
    reason = "none"
    try:
        decode_record(raw)
    except InvalidEvent as error:
        reason = error.reason
    assert reason in REASONS | {"none"}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "empty"),
        (b"{", "malformed_json"),
        (b"[" * 100_000, "invalid_field"),
        (b'{"heartbeat_ms":' + b"[" * 100_000, "malformed_json"),
        (b"\xff\xfe", "malformed_json"),
        (b'{"event_id":"\xff"}', "malformed_json"),
        (b"null", "invalid_field"),
        (b"[]", "invalid_field"),
        (b"{}", "invalid_field"),
        (b'{"heartbeat_ms":-1}', "invalid_field"),
        (b" " * (MAX_EVENT_BYTES + 1), "too_large"),
    ],
)
def test_bytes_that_are_no_event_have_a_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        decode_record(raw)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"action": "teleport"}, "unknown_action"),
        ({"user_id": -1}, "invalid_field"),
        ({"user_id": 2**63}, "invalid_field"),
        ({"user_id": "1"}, "invalid_field"),
        ({"item_id": None}, "invalid_field"),
        ({"item_id": 1.5}, "invalid_field"),
        ({"event_time_ms": MAX_TIME_MS + 1}, "invalid_field"),
        ({"event_id": ""}, "invalid_field"),
        ({"watch_ms": -1}, "invalid_field"),
        ({"context": []}, "invalid_field"),
    ],
)
def test_a_field_that_is_wrong_has_a_reason(change: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        decode_record(msgspec.json.encode({**GOOD, **change}))
    assert caught.value.reason == reason


def test_a_field_nobody_knows_does_not_matter() -> None:
    event = decode_record(msgspec.json.encode({**GOOD, "colour": "green"}))
    assert isinstance(event, Event)


def test_the_key_is_the_decimal_user_id() -> None:
    assert partition_key(MAX_ID) == b"9223372036854775807"
