"""Records of a newer version: what only adds passes through, what means something new is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from features.config import FeaturesConfig
from features.offline import assemble
from features.sequences import Progress
from ingest.adapters.text import open_jsonl
from ingest.events import Event, InvalidEvent, decode_record
from ingest.gateway.admission import Admission
from ingest.runtime.topics import EVENTS_DEAD
from tests.ingest.logs import read_whole

GOOD = {"event_id": "a", "user_id": 21, "item_id": 2, "action": "click", "event_time_ms": 3}
ADDED = (
    b'{"schema": 2, "event_id":"a","user_id":21,"item_id":2,"action":"click","event_time_ms":3,'
    b'  "device":{"os":"x","big":18446744073709551616}, "tags":[1,[2.50,null]], "\\u00e9":1e3 }'
)
FUTURE = {
    "a new action": ({**GOOD, "action": "hover"}, "unknown_action", "$.action"),
    "a new kind of record": ({"kind": "item", "item_id": 2, "title": "t"}, "invalid_field",
                             "event_id"),
    "a field of another type": ({**GOOD, "item_id": {"shop": 1, "item": 2}}, "invalid_field",
                                "$.item_id"),
    "a heartbeat with more": ({"heartbeat_ms": 5, "zone": "x"}, "invalid_field", "event_id"),
}  # fmt: skip


def test_fields_nobody_knows_reach_the_topic_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "new.jsonl"
    path.write_bytes(ADDED + b"\n")
    assert read_whole(open_jsonl(path)).values == [ADDED]
    assert Admission(None, 0).admit(ADDED).value == ADDED
    record = decode_record(ADDED)
    assert isinstance(record, Event)
    assert (record.user_id, record.action) == (21, "click")


@pytest.mark.parametrize("name", FUTURE)
def test_what_means_something_new_is_refused_by_name(name: str) -> None:
    fields, reason, said = FUTURE[name]
    raw = json.dumps(fields).encode()
    with pytest.raises(InvalidEvent) as caught:
        decode_record(raw)
    assert caught.value.reason == reason
    assert said in caught.value.detail


def test_the_job_sets_what_is_new_aside_with_its_bytes_and_goes_on() -> None:
    raws = [json.dumps(fields).encode() for fields, _, _ in FUTURE.values()]
    raws += [ADDED, b'{"heartbeat_ms":900000}']
    log = [(offset, 1_000_000, raw) for offset, raw in enumerate(raws)]
    outputs = list(assemble(FeaturesConfig(), 0, 1, log))
    dead = [o for o in outputs if not isinstance(o, Progress) and o.topic == EVENTS_DEAD]
    assert [letter.value for letter in dead] == raws[: len(FUTURE)]
    reasons = [(letter.headers or {})["reason"] for letter in dead]
    assert reasons == [reason for _, reason, _ in FUTURE.values()]
    progress = outputs[-1]
    assert isinstance(progress, Progress)
    assert (progress.counters.targets, progress.counters.imbalance()) == (1, 0)
