"""What is announced and what was; the broker is a stand-in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from kafka.errors import KafkaTimeoutError
from prometheus_client import REGISTRY

from ingest.runtime.errors import BrokerError
from ingest.runtime.kafka import Record
from publisher import announce
from publisher.announce import Announcer
from publisher.snapshots import Announcement

NEWEST = Announcement(version="7", uri="file:///7", manifest_sha256="ab", step=7, watermark_ms=1)


def test_the_producer_gives_up_before_the_announcer_does(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds: dict[str, float] = {}

    def get(timeout: float) -> None:
        seconds["ack"] = timeout
        raise KafkaTimeoutError

    def make_producer(bootstrap: str, **settings: float) -> Any:
        seconds["delivery"] = settings["delivery_timeout_seconds"]
        return SimpleNamespace(send=lambda *_, **__: SimpleNamespace(get=get))

    monkeypatch.setattr(announce, "make_producer", make_producer)
    with pytest.raises(BrokerError) as failed:
        Announcer("", "freshet").announce(NEWEST)
    assert failed.value.retriable
    assert seconds["delivery"] < seconds["ack"]


def test_a_record_that_is_no_announcement_is_counted_and_the_one_before_it_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = [(b"freshet", msgspec.json.encode(NEWEST)), (b"freshet", b"?"), (b"other", b"?")]
    records = [Record(0, i, 0, key, value, ()) for i, (key, value) in enumerate(values)]
    monkeypatch.setattr(announce, "make_producer", lambda *_, **__: None)
    monkeypatch.setattr(announce, "read_all", lambda *_: records)
    name = "freshet_publisher_bad_announcements_total"
    before = REGISTRY.get_sample_value(name) or 0.0
    assert Announcer("", "freshet").last_announced() == "7"
    assert REGISTRY.get_sample_value(name) == before + 1
    assert Announcer("", "third").last_announced() is None
