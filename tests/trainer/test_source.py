"""Where records go that are no message; the broker is a stand-in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kafka.errors import KafkaError, KafkaTimeoutError

from features.sequences import CorruptSequence
from ingest.runtime.errors import BrokerError
from ingest.runtime.kafka import Record
from trainer import source
from trainer.source import DeadLetters

TORN = Record(0, 5, 0, None, b"torn", ())
ERROR = CorruptSequence("sequence message torn", detail="4 bytes.")


class Producer:
    """Keeps what was sent; `failure` makes each send fail."""

    def __init__(self, failure: KafkaError | None = None) -> None:
        self.sent: list[dict[str, Any]] = []
        self.num_flushes = 0
        self._failure = failure

    def send(self, topic: str, **record: Any) -> Any:
        if self._failure is not None:
            raise self._failure
        self.sent.append(record)
        return SimpleNamespace(succeeded=lambda: True)

    def flush(self) -> None:
        self.num_flushes += 1


def dead_letters(monkeypatch: pytest.MonkeyPatch, producer: Producer) -> DeadLetters:
    monkeypatch.setattr(source, "make_producer", lambda _: producer)
    return DeadLetters("", "sequences")


def test_a_flood_of_corrupt_records_is_confirmed_on_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    producer = Producer()
    letters = dead_letters(monkeypatch, producer)
    for _ in range(2_500):
        letters.send(TORN, ERROR)
    assert len(producer.sent) == 2_500
    assert producer.num_flushes == 2
    letters.flush()
    assert producer.num_flushes == 3


def test_a_dead_letter_the_broker_does_not_take_is_an_error_to_act_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    letters = dead_letters(monkeypatch, Producer(KafkaTimeoutError("no room")))
    with pytest.raises(BrokerError, match=r"sequences.dead failed: .*no room") as failed:
        letters.send(TORN, ERROR)
    assert failed.value.retriable
