"""The door against a real broker: nothing is lost, nothing is lost silently."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.broker import Broker, start_broker
from ingest.adapters.catalog import open_log
from ingest.adapters.log import LogError
from ingest.adapters.movielens import NUM_ROWS
from ingest.adapters.synthetic import SyntheticConfig, generate
from ingest.adapters.text import open_csv, open_jsonl
from ingest.cli import app
from ingest.events import MAX_EVENT_BYTES, Event, Heartbeat, decode_record
from ingest.metrics import DELIVERY_FAILURES
from ingest.producer import EventProducer
from ingest.replay import ReplayConfig, ReplayProgress, replay
from ingest.replay_state import ReplayStateError
from ingest.runtime.errors import BrokerError
from ingest.runtime.kafka import (
    Record,
    TopicReader,
    cluster_id,
    create_topics,
    read_all,
    topic_partitions,
)
from ingest.runtime.partitions import partition_of
from ingest.runtime.service import StopSignal
from ingest.runtime.topics import EVENTS, EVENTS_DEAD, TOPICS
from tests.ingest.logs import events_of, read_whole

pytestmark = pytest.mark.e2e
NUM_PARTITIONS = 3
NUM_IMPRESSIONS = 1_500


@pytest.fixture(scope="module")
def bootstrap(broker: Broker) -> str:
    create_topics(broker.bootstrap, NUM_PARTITIONS)
    return broker.bootstrap


@pytest.fixture
def producer(bootstrap: str) -> Iterator[EventProducer]:
    with EventProducer(bootstrap, delivery_timeout_seconds=20) as made:
        yield made


class Tail:
    """What arrives in a topic from now on."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap, self._topic = bootstrap, topic
        partitions = range(topic_partitions(bootstrap)[topic])
        reader = TopicReader(bootstrap, topic, dict.fromkeys(partitions, 0))
        self._begin = reader.end_offsets()
        reader.close()

    def records(self) -> list[Record]:
        everything = read_all(self._bootstrap, self._topic)
        return [record for record in everything if record.offset >= self._begin[record.partition]]


@pytest.fixture
def events_tail(bootstrap: str) -> Tail:
    return Tail(bootstrap, EVENTS)


@pytest.fixture
def dead_tail(bootstrap: str) -> Tail:
    return Tail(bootstrap, EVENTS_DEAD)


def event(number: int, user: int = 7) -> Event:
    return Event(event_id=number, user_id=user, item_id=1, action="click", event_time_ms=number)


def test_creating_the_topics_again_changes_nothing(bootstrap: str) -> None:
    before = topic_partitions(bootstrap)
    create_topics(bootstrap, NUM_PARTITIONS)
    assert topic_partitions(bootstrap) == before
    assert set(before) == {topic.name for topic in TOPICS}
    assert before[EVENTS] == NUM_PARTITIONS


def test_another_partition_count_is_an_error(bootstrap: str) -> None:
    with pytest.raises(BrokerError, match=f"found {NUM_PARTITIONS}, wanted 5"):
        create_topics(bootstrap, 5, iter([EVENTS]))


def test_events_arrive_in_order_in_the_partition_of_their_user(
    producer: EventProducer, events_tail: Tail
) -> None:
    for number in range(500):
        producer.send(event(number, user=number % 10))
    producer.flush()
    assert producer.num_acknowledged == producer.num_sent == 500
    records = events_tail.records()
    assert len(records) == 500
    for user in range(10):
        mine = [record for record in records if record.key == b"%d" % user]
        assert {r.partition for r in mine} == {partition_of(b"%d" % user, NUM_PARTITIONS)}
        assert [decode_record(r.value).event_id for r in mine] == list(range(user, 500, 10))  # type: ignore[union-attr]


def test_our_partitions_are_those_of_the_default_partitioner(bootstrap: str) -> None:
    from kafka import KafkaProducer

    client = KafkaProducer(bootstrap_servers=bootstrap)
    keys = [b"%d" % (7**power) for power in range(22)]
    chosen = [client.send(EVENTS, b"null", key=key).get(timeout=10).partition for key in keys]
    client.close()
    assert chosen == [partition_of(key, NUM_PARTITIONS) for key in keys]


def test_heartbeats_reach_every_partition(producer: EventProducer, events_tail: Tail) -> None:
    producer.heartbeat_all(123)
    producer.flush()
    beats = {record.partition: decode_record(record.value) for record in events_tail.records()}
    assert beats == dict.fromkeys(range(NUM_PARTITIONS), Heartbeat(heartbeat_ms=123))


def test_a_dead_letter_has_its_bytes_and_says_why(producer: EventProducer, dead_tail: Tail) -> None:
    producer.dead("log/5", b"\xff{", "malformed_json", "bad \ud800 byte")
    producer.flush()
    (letter,) = dead_tail.records()
    assert letter.value == b"\xff{"
    assert letter.key == b"log/5"
    assert dict(letter.headers) == {
        "reason": b"malformed_json",
        "detail": b"bad ? byte",
        "source": b"log/5",
        "num_bytes": b"2",
    }


def test_a_dead_letter_too_large_for_a_message_is_cut_and_says_so(
    producer: EventProducer, dead_tail: Tail
) -> None:
    producer.dead("log/6", b"\xff" * (MAX_EVENT_BYTES + 500_000), "too_large", "d" * 9_000)
    producer.flush()
    (letter,) = dead_tail.records()
    assert len(letter.value) == MAX_EVENT_BYTES
    assert dict(letter.headers)["num_bytes"] == b"1500000"


def test_a_message_that_is_too_large_is_an_error_and_not_retriable(bootstrap: str) -> None:
    producer = EventProducer(bootstrap)
    with pytest.raises(BrokerError) as caught:
        producer.send_raw(b"1", b"x" * 2_000_000)
    assert not caught.value.retriable
    producer.close()


def test_a_replay_sends_every_row_once_in_order_and_then_heartbeats(
    producer: EventProducer, events_tail: Tail, tmp_path: Path
) -> None:
    log, truth = generate(SyntheticConfig(num_impressions=NUM_IMPRESSIONS, malformed=0.02))
    seen: list[ReplayProgress] = []
    config = ReplayConfig(state_directory=tmp_path, flush_after_ms=1_000)
    summary = replay(log, producer, config, on_progress=seen.append)
    assert summary.complete
    assert (summary.num_events, summary.num_dead) == (truth.num_records, 0)
    records = events_tail.records()
    last_ms = read_whole(log).times_ms[-1]
    beats = [r for r in records if r.value.startswith(b'{"heartbeat_ms"')]
    assert len(beats) == summary.num_heartbeats == 2 * NUM_PARTITIONS
    assert {decode_record(r.value).heartbeat_ms for r in beats} == {
        last_ms + 1_000,
        last_ms + 1_001,
    }  # type: ignore[union-attr]
    sent = sorted(r.value for r in records if r not in beats)
    assert sent == sorted(read_whole(log).values)
    for partition in range(NUM_PARTITIONS):
        there = [r.value for r in records if r.partition == partition and r not in beats]
        here = [
            value
            for key, value in zip(read_whole(log).keys, read_whole(log).values, strict=True)
            if partition_of(key or b"", NUM_PARTITIONS) == partition
        ]
        assert there == here
    assert seen[-1].row == seen[-1].end_row == truth.num_records
    again = replay(log, producer, config)
    assert (again.num_events, again.num_heartbeats, again.complete) == (0, 0, True)


def test_an_interrupted_replay_goes_on_and_leaves_no_row_out(
    bootstrap: str, events_tail: Tail, tmp_path: Path
) -> None:
    log, truth = generate(SyntheticConfig(num_impressions=NUM_IMPRESSIONS, seed=2))
    config = ReplayConfig(state_directory=tmp_path, save_every_rows=500)

    def die(progress: ReplayProgress) -> None:
        if progress.row >= 2_000:
            raise KeyboardInterrupt

    first = EventProducer(bootstrap)
    with pytest.raises(KeyboardInterrupt):
        replay(log, first, config, on_progress=die)
    first.close()
    with EventProducer(bootstrap) as second:
        summary = replay(log, second, config)
    assert summary.complete
    assert summary.first_row < 2_000 + 1
    sent = [record.value for record in events_tail.records()]
    assert set(sent) == set(read_whole(log).values)
    assert len(sent) <= truth.num_records + 2_000


def test_a_replay_that_is_asked_to_stop_saves_where_it_is(
    producer: EventProducer, events_tail: Tail, tmp_path: Path
) -> None:
    log, truth = generate(SyntheticConfig(num_impressions=NUM_IMPRESSIONS, seed=3))
    stop = StopSignal()
    summary = replay(
        log,
        producer,
        ReplayConfig(state_directory=tmp_path, flush_after_ms=5),
        on_progress=lambda _: stop.request(),
        stop=stop,
    )
    assert 0 < summary.next_row < truth.num_records
    assert (summary.complete, summary.num_heartbeats) == (False, 0)
    assert len(events_tail.records()) == summary.next_row
    rest = replay(log, producer, ReplayConfig(state_directory=tmp_path))
    assert rest.first_row == summary.next_row
    assert len(events_tail.records()) == truth.num_records


def test_a_log_in_two_parts_at_a_rate_and_a_speed_is_the_whole_log(
    producer: EventProducer, events_tail: Tail, tmp_path: Path
) -> None:
    log, truth = generate(SyntheticConfig(num_impressions=200, seed=4))
    first = ReplayConfig(state_directory=tmp_path, limit=150, events_per_second=5_000)
    rest = ReplayConfig(state_directory=tmp_path, skip=150, speed=1e9)
    assert replay(log, producer, first).next_row == 150
    assert replay(log, producer, rest).first_row == 150
    sent = sorted(record.value for record in events_tail.records())
    assert sent == sorted(read_whole(log).values)
    assert len(sent) == truth.num_records


def test_progress_on_another_cluster_is_refused(producer: EventProducer, tmp_path: Path) -> None:
    log, _ = generate(SyntheticConfig(num_impressions=50))
    config = ReplayConfig(state_directory=tmp_path)
    replay(log, producer, config)
    (state,) = tmp_path.glob("*.json")
    ours = cluster_id(producer.bootstrap)
    state.write_text(state.read_text().replace(ours, "another"))
    with pytest.raises(ReplayStateError, match="differs in: cluster"):
        replay(log, producer, config)
    restarted = ReplayConfig(state_directory=tmp_path, restart=True)
    assert replay(log, producer, restarted).first_row == 0


def test_refused_rows_are_dead_letters_and_hashed_ids_are_written(
    producer: EventProducer, events_tail: Tail, dead_tail: Tail, tmp_path: Path
) -> None:
    path = tmp_path / "shop.csv"
    path.write_text(
        "user_id,item_id,action,event_time_ms\nanna,2,click,5\n1,2,teleport,6\n1,2,click,7\n"
    )
    log = open_csv(path)
    summary = replay(log, producer, ReplayConfig(state_directory=tmp_path / "state"))
    assert (summary.num_events, summary.num_dead, summary.complete) == (2, 1, True)
    (letter,) = dead_tail.records()
    assert dict(letter.headers)["reason"] == b"unknown_action"
    assert letter.key == f"{log.name}/1".encode()
    assert b"teleport" in letter.value
    assert len(events_tail.records()) == 2
    assert '"anna"' in (tmp_path / "state" / f"{log.name}.ids.jsonl").read_text()


def test_lines_of_nobody_arrive_as_they_are(
    producer: EventProducer, events_tail: Tail, tmp_path: Path
) -> None:
    path = tmp_path / "wild.jsonl"
    path.write_bytes(b"{\n\n\xff\n")
    replay(open_jsonl(path), producer, ReplayConfig(state_directory=tmp_path))
    assert sorted(record.value for record in events_tail.records()) == [b"", b"{", b"\xff"]


def test_a_broker_that_dies_is_an_error_that_counts_and_the_replay_goes_on_after_it(
    tmp_path: Path,
) -> None:
    broker = start_broker(tmp_path / "broker")
    create_topics(broker.bootstrap, 2)
    log, truth = generate(SyntheticConfig(num_impressions=NUM_IMPRESSIONS, seed=5))
    config = ReplayConfig(state_directory=tmp_path / "state", save_every_rows=500)

    def kill(progress: ReplayProgress) -> None:
        if progress.row >= 1_000:
            broker.child.kill()

    producer = EventProducer(broker.bootstrap, delivery_timeout_seconds=3, max_in_flight=500)
    with pytest.raises(BrokerError, match=r"confirmed the first \d+ of \d+ records") as caught:
        replay(log, producer, config, on_progress=kill)
    assert caught.value.retriable
    with pytest.raises(BrokerError):
        producer.flush()
    confirmed = producer.num_acknowledged
    failures = DELIVERY_FAILURES._value.get()
    producer.close()
    assert DELIVERY_FAILURES._value.get() - failures == producer.num_sent - confirmed
    assert confirmed < truth.num_records

    port = int(broker.bootstrap.rpartition(":")[2])
    (tmp_path / "broker" / "broker.log").unlink()  # its old lines say that it is ready
    revived = start_broker(tmp_path / "broker", port)
    try:
        with EventProducer(revived.bootstrap) as second:
            summary = replay(log, second, config)
        assert (summary.first_row, summary.complete) == (confirmed, True)
        sent = {record.value for record in read_all(revived.bootstrap, EVENTS)}
        assert sent == set(read_whole(log).values)
    finally:
        revived.stop()


def test_a_missing_topic_is_an_error_that_says_how_to_make_it(
    tmp_path: Path, bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.producer.EVENTS", "no.such.topic")
    with pytest.raises(BrokerError, match="topics create"):
        EventProducer(bootstrap)


def test_the_commands_work_together(
    bootstrap: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, events_tail: Tail
) -> None:
    monkeypatch.setenv("FRESHET_BOOTSTRAP", bootstrap)
    monkeypatch.setenv("FRESHET_INGEST_STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setenv("FRESHET_INGEST_NUM_PARTITIONS", str(NUM_PARTITIONS))
    runner = CliRunner()
    assert f"events\t{NUM_PARTITIONS}" in runner.invoke(app, ["topics", "create"]).output
    sent = runner.invoke(app, ["send"], input='{"event_id":1,"user_id":4,"item_id":3,'
                         '"action":"click","event_time_ms":1}\n')  # fmt: skip
    assert sent.output == "sent\n"
    bad = tmp_path / "bad.csv"
    bad.write_text("user_id,item_id,action,event_time_ms\n1,2,fly,3\n")
    replayed = runner.invoke(app, ["replay", str(bad)])
    assert '"num_dead": 1' in replayed.output
    assert "unknown_action" in runner.invoke(app, ["dead", "ls"]).output
    assert len(events_tail.records()) == 1


def test_movielens_is_fetched_by_name_and_has_its_known_shape(tmp_path: Path) -> None:
    try:
        log = open_log("ml-100k", tmp_path)
    except LogError as error:
        pytest.skip(f"MovieLens 100k cannot be fetched here: {error}")
    events = events_of(log)
    assert len(events) == NUM_ROWS
    assert len({event.user_id for event in events}) == 943
    assert len({event.item_id for event in events}) == 1_682
    assert sum(event.action == "like" for event in events) == 34_174 + 21_201
