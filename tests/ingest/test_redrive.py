"""What was refused is listed, shown and, once it is an event, sent again: once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.broker import Broker
from ingest.cli import app
from ingest.dead_letters import read_dead_letters, redrive
from ingest.events import MAX_EVENT_BYTES, Event, encode_record
from ingest.producer import EventProducer
from ingest.replay_state import ReplayStateError
from ingest.runtime.errors import BrokerError, ConfigError
from ingest.runtime.kafka import create_topics, read_all
from ingest.runtime.lock import lock_directory
from ingest.runtime.topics import EVENTS, EVENTS_DEAD

pytestmark = pytest.mark.e2e


def event(number: int) -> bytes:
    return encode_record(
        Event(event_id=number, user_id=number, item_id=1, action="click", event_time_ms=number)
    )


@pytest.fixture(scope="module")
def bootstrap(broker: Broker) -> str:
    """Six letters: three are events by now, one is cut, two will never be one."""
    create_topics(broker.bootstrap, 3)
    with EventProducer(broker.bootstrap) as producer:
        producer.dead("events/0/5", event(1), "unknown_action", "teleport")
        producer.dead("events/1/6", event(2), "unknown_action", "teleport")
        producer.dead("events/1/7", b"\xff{", "malformed_json", "no")
        producer.dead("gateway/app", event(3), "invalid_field", "text id")
        producer.dead("log/5", b'{"heartbeat_ms":5}', "future", "")
        big = event(4) + b" " * MAX_EVENT_BYTES
        producer.dead("log/6", big, "too_large", "")
    return broker.bootstrap


@pytest.fixture(autouse=True)
def _environment(bootstrap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHET_BOOTSTRAP", bootstrap)
    monkeypatch.setenv("FRESHET_INGEST_STATE_DIRECTORY", str(tmp_path))


def run(*arguments: str, status: int = 0) -> str:
    outcome = CliRunner().invoke(app, ["dead", *arguments])
    assert outcome.exit_code == status, outcome.output
    return outcome.output


def test_reasons_are_counted_and_letters_selected() -> None:
    listed = run("ls")
    assert "6 dead letters" in listed
    assert "       2  unknown_action" in listed
    chosen = run("ls", "--source", "events/1", "--last-offset", "1").splitlines()
    assert chosen[0] == "1 dead letters"
    assert chosen[-1].startswith("1\tunknown_action\tevents/1/6\t")
    assert len(run("ls", "--newest", "0").splitlines()) == 6


def test_one_letter_is_shown_whole() -> None:
    shown = run("show", "2")
    assert "malformed_json" in shown
    assert "\\xff{" in shown
    assert "an event by now no" in " ".join(shown.split())
    assert CliRunner().invoke(app, ["dead", "show", "2", "--raw"]).stdout_bytes == b"\xff{"
    assert "offset 99" in run("show", "99", status=1)


def test_each_letter_that_is_an_event_by_now_is_sent_once(bootstrap: str, tmp_path: Path) -> None:
    first = json.loads(run("redrive", "--reason", "unknown_action", "--last-offset", "0"))
    assert first == {"selected": 1, "sent": 1, "sent_before": 0, "still_invalid": 0}
    everything = json.loads(run("redrive"))
    assert everything == {"selected": 6, "sent": 2, "sent_before": 1, "still_invalid": 3}
    again = json.loads(run("redrive"))
    assert (again["sent"], again["sent_before"]) == (0, 3)
    records = read_all(bootstrap, EVENTS)
    assert sorted(record.value for record in records) == [event(1), event(2), event(3)]
    assert {record.key for record in records} == {b"1", b"2", b"3"}


def test_a_broker_that_does_not_confirm_leaves_the_letter_due(
    bootstrap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = read_dead_letters(bootstrap)
    with EventProducer(bootstrap) as producer:
        with monkeypatch.context() as patched:

            def fail() -> None:
                raise BrokerError("away", retriable=True)

            patched.setattr(producer, "flush", fail)
            with pytest.raises(BrokerError):
                redrive(letters, producer, tmp_path)
        assert redrive(letters, producer, tmp_path).sent == 3


def test_what_was_sent_on_another_cluster_is_refused(bootstrap: str, tmp_path: Path) -> None:
    with EventProducer(bootstrap) as producer:
        redrive(read_dead_letters(bootstrap), producer, tmp_path)
        state = tmp_path / "redrive" / "redriven.json"
        state.write_text(state.read_text().replace('"cluster":"', '"cluster":"x'))
        with pytest.raises(ReplayStateError, match="differs in: cluster"):
            redrive(read_dead_letters(bootstrap), producer, tmp_path)


def test_letters_of_a_topic_created_anew_do_not_pass_for_sent(
    bootstrap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = read_dead_letters(bootstrap)
    with EventProducer(bootstrap) as producer:
        redrive(letters, producer, tmp_path)
        monkeypatch.setattr("ingest.dead_letters.topic_ids", lambda *_: {EVENTS_DEAD: "another"})
        with pytest.raises(ReplayStateError, match="differs in: topic"):
            redrive(letters, producer, tmp_path)


def test_a_second_redrive_beside_the_first_is_refused(bootstrap: str, tmp_path: Path) -> None:
    with (
        EventProducer(bootstrap) as producer,
        lock_directory(tmp_path / "redrive", hint=""),
        pytest.raises(ConfigError, match="directory in use"),
    ):
        redrive(read_dead_letters(bootstrap), producer, tmp_path)
