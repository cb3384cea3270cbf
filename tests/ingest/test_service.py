"""How a service ends, and what a broker that fails looks like to it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from kafka.errors import KafkaTimeoutError
from structlog.testing import capture_logs

from ingest.runtime import kafka
from ingest.runtime.errors import BrokerError, FreshetError
from ingest.runtime.service import run


@pytest.mark.parametrize(
    "error", [FreshetError("no way", detail="It is shut."), OSError(28, "No space left on device")]
)
def test_what_a_person_can_act_on_is_one_message_and_exit_code_1(error: Exception) -> None:
    def main() -> None:
        raise error

    with capture_logs() as logs, pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == 1
    (entry,) = logs
    assert entry["log_level"] == "error"
    assert entry["detail"] in str(error)


def test_a_mistake_in_the_code_keeps_its_trace() -> None:
    def main() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        run(main)


@pytest.mark.parametrize("name", ["beginning_offsets", "end_offsets"])
def test_offsets_the_broker_does_not_tell_are_an_error_to_retry(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fails(_: object) -> None:
        raise KafkaTimeoutError

    consumer = SimpleNamespace(assign=lambda _: None, seek=lambda *_: None, **{name: fails})
    monkeypatch.setattr(kafka, "KafkaConsumer", lambda **_: consumer)
    reader = kafka.TopicReader("", "events", {0: 0})
    with pytest.raises(BrokerError, match="reading events failed") as failed:
        getattr(reader, name)()
    assert failed.value.retriable
