"""The job as it runs: a real broker, real Flink, a kill of the whole tree, and nothing to show for it."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from deploy.broker import Broker
from deploy.ports import free_ports
from deploy.processes import Child, await_condition
from features.config import FeaturesConfig
from features.offline import assemble
from features.sequences import Counters, Kind, Progress, decode, message_kind
from features.service import require_no_sequences
from ingest.events import Heartbeat, encode_record, partition_key
from ingest.runtime.errors import ConfigError
from ingest.runtime.kafka import TopicReader, create_topics, make_producer, read_all
from tests.features.logs import event

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
NUM_PARTITIONS = 2
CONFIG = FeaturesConfig(emit_after_ms=90_000, checkpoint_interval_seconds=0.5)
JUNK = [b"\x00\x1e\xff\x01", None, b"", "\u0100{\u0101".encode(), b'{"action":"\xf0\x9f\x98\x80"}']
LARGEST = b"x" * 1_048_450  # with Kafka's frame, just what a producer may send
# A record as (topic, partition of `sequences` or 0) -> [(key, value, headers)].
Records = dict[tuple[str, int], list[tuple[bytes, bytes, dict[str, bytes]]]]


def feed(bootstrap: str, seed: int, num_events: int) -> None:
    """Append events of 50 users over minutes of event time, with every fault the room knows."""
    random = Random(seed)
    producer = make_producer(bootstrap)
    now_ms = 1_700_000_000_000 + seed * 10_000_000
    for at in range(num_events):
        now_ms += random.randrange(800)
        user = random.randrange(50)
        fault = random.random()
        time_ms = now_ms - random.randrange(9_000) - (100_000 if fault < 0.02 else 0)
        value: bytes | None = event(
            time_ms, id=f"{seed}/{at}", user=user, item=random.randrange(20), watch_ms=at
        )
        if fault > 0.98:
            value = random.choice(JUNK)
        if at == 100:
            value = LARGEST
        for _ in range(2 if 0.1 < fault < 0.12 else 1):
            producer.send("events", key=partition_key(user), value=value)
    for partition in range(NUM_PARTITIONS):
        beat = encode_record(Heartbeat(heartbeat_ms=now_ms + 50_000))
        producer.send("events", value=beat, partition=partition)
    producer.flush()
    producer.close()


def expected(bootstrap: str) -> tuple[Records, Counters]:
    """What the room without Flink makes of the log as it now is."""
    logs = defaultdict(list)
    for record in read_all(bootstrap, "events"):
        logs[record.partition].append((record.offset, record.timestamp_ms, record.value))
    records: Records = defaultdict(list)
    counters = Counters()
    for partition, log in logs.items():
        for output in assemble(CONFIG, partition, NUM_PARTITIONS, log):
            if isinstance(output, Progress):
                counters += output.counters
                continue
            headers = {name: text.encode() for name, text in (output.headers or {}).items()}
            lane = partition if output.topic == "sequences" else 0
            records[output.topic, lane].append((output.key.encode(), output.value, headers))
    return records, counters


def committed(bootstrap: str) -> tuple[Records, Counters]:
    """What the job has committed; the counters are those of the newest progress messages."""
    records: Records = defaultdict(list)
    newest: dict[int, Progress] = {}
    for topic in ("sequences", "events.late", "events.dead"):
        for record in read_all(bootstrap, topic):
            if topic == "sequences" and message_kind(record.value) is Kind.PROGRESS:
                message = decode(record.value)
                assert isinstance(message, Progress)
                assert message.partition == record.partition
                newest[record.partition] = message
                continue
            found = (record.key or b"", record.value, dict(record.headers))
            records[topic, record.partition].append(found)
    return records, sum((progress.counters for progress in newest.values()), Counters())


class Follower:
    """Reads progress messages until they close over all that `events` holds now."""

    def __init__(self, bootstrap: str) -> None:
        starts = dict.fromkeys(range(NUM_PARTITIONS), 0)
        events = TopicReader(bootstrap, "events", starts)
        self._wanted = events.end_offsets()
        events.close()
        self._found = starts
        self._reader = TopicReader(bootstrap, "sequences", starts)

    def caught_up(self) -> bool:
        for record in self._reader.poll(1.0):
            if message_kind(record.value) is Kind.PROGRESS:
                message = decode(record.value)
                assert isinstance(message, Progress)
                self._found[message.partition] = message.next_offset
        return self._found == self._wanted


def start_job(bootstrap: str, directory: Path, log: str) -> Child:
    rest_port, metrics_port = free_ports(2)
    settings = {
        "FRESHET_BOOTSTRAP": bootstrap,
        "FRESHET_FEATURES_CONNECTOR_JAR": str(
            next((ROOT / "build" / "jars" / "flink").glob("flink-sql-connector-kafka-*.jar"))
        ),
        "FRESHET_FEATURES_STATE_DIRECTORY": str(directory),
        "FRESHET_FEATURES_REST_PORT": str(rest_port),
        "FRESHET_FEATURES_METRICS_PORT": str(metrics_port),
        "FRESHET_FEATURES_HEAP_MB": "700",
        "FRESHET_FEATURES_EMIT_AFTER_MS": str(CONFIG.emit_after_ms),
        "FRESHET_FEATURES_CHECKPOINT_INTERVAL_SECONDS": str(CONFIG.checkpoint_interval_seconds),
    }
    command = [sys.executable, "-m", "features"]
    return Child.start("features", command, log=directory / log, env=settings, cwd=ROOT)


@pytest.fixture
def jobs() -> Iterator[list[Child]]:
    started: list[Child] = []
    yield started
    for child in started:
        child.kill()


def test_a_killed_and_restored_job_writes_what_offline_writes(
    broker: Broker, tmp_path: Path, jobs: list[Child]
) -> None:
    create_topics(broker.bootstrap, NUM_PARTITIONS)
    require_no_sequences(broker.bootstrap, NUM_PARTITIONS)
    feed(broker.bootstrap, seed=1, num_events=3_000)

    follower = Follower(broker.bootstrap)
    jobs.append(start_job(broker.bootstrap, tmp_path, "first.log"))
    await_condition(follower.caught_up, jobs[0], timeout_seconds=200)
    feed(broker.bootstrap, seed=2, num_events=3_000)
    jobs[0].kill()
    assert committed(broker.bootstrap)[1].events < expected(broker.bootstrap)[1].events
    feed(broker.bootstrap, seed=3, num_events=500)

    jobs.append(start_job(broker.bootstrap, tmp_path, "second.log"))
    await_condition(Follower(broker.bootstrap).caught_up, jobs[1], timeout_seconds=200)
    jobs[1].stop(grace_seconds=60)
    assert jobs[1].returncode == 0, jobs[1].log_tail()
    jvm = (tmp_path / "jvm.pid").read_text()
    assert not Path(f"/proc/{jvm}").exists()
    with pytest.raises(ConfigError, match="sequences already has messages"):
        require_no_sequences(broker.bootstrap, NUM_PARTITIONS)

    records, counters = committed(broker.bootstrap)
    wanted, wanted_counters = expected(broker.bootstrap)
    assert counters == wanted_counters
    assert counters.imbalance() == 0
    assert min(counters.targets, counters.folded, counters.duplicates) > 0
    assert min(counters.late, counters.dead, counters.pending, counters.heartbeats) > 0
    for partition in range(NUM_PARTITIONS):
        assert records["sequences", partition] == wanted["sequences", partition]
    for topic in ("events.late", "events.dead"):
        # One topic partition takes both of `events`; between those there is no order.
        source = lambda record: record[2]["source"]  # noqa: E731
        assert sorted(records[topic, 0], key=source) == sorted(wanted[topic, 0], key=source)
