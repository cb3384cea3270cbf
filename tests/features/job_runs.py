"""Runs of the real job against a real broker, and what they must have written: offline's bytes."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from deploy.ports import free_ports
from deploy.processes import Child
from features.assembler import PartitionAssembler
from features.config import FeaturesConfig
from features.sequences import Counters, Kind, Progress, Sequence, decode, message_kind
from ingest.runtime.kafka import Record, TopicReader, partitions_of
from ingest.runtime.topics import EVENTS, EVENTS_DEAD, EVENTS_LATE, SEQUENCES

ROOT = Path(__file__).resolve().parents[2]
_STALL_SECONDS = 60


def connector_jar() -> Path:
    """Flink's Kafka connector."""
    return next((ROOT / "build" / "jars" / "flink").glob("flink-sql-connector-kafka-*.jar"))


def job_environment(
    bootstrap: str, directory: Path, config: FeaturesConfig, **more: str
) -> dict[str, str]:
    """The settings of a run; `more` are FRESHET_FEATURES_* in lower case."""
    rest_port, metrics_port = free_ports(2)
    values = {name: getattr(config, name) for name in FeaturesConfig.__dataclass_fields__}
    values |= {
        "connector_jar": connector_jar(),
        "state_directory": directory,
        "rest_port": rest_port,
        "metrics_port": metrics_port,
        "heap_mb": 700,
    }
    texts = {
        name: json.dumps(value) if isinstance(value, tuple) else str(value)
        for name, value in (values | more).items()
    }
    settings = {f"FRESHET_FEATURES_{name}".upper(): text for name, text in texts.items()}
    return settings | {"FRESHET_BOOTSTRAP": bootstrap}


def start_job(
    bootstrap: str,
    directory: Path,
    config: FeaturesConfig,
    *,
    log: str = "features.log",
    jvm_args: str = "",
    **more: str,
) -> Child:
    """Start `python -m features`, or start it again."""
    settings = job_environment(bootstrap, directory, config, **more)
    environment = settings | ({"JVM_ARGS": jvm_args} if jvm_args else {})
    command = [sys.executable, "-m", "features"]
    return Child.start("features", command, log=directory / log, env=environment, cwd=ROOT)


class Follower:
    """Reads progress messages until they close over all that `events` held when it was made."""

    def __init__(self, bootstrap: str) -> None:
        starts = dict.fromkeys(partitions_of(bootstrap, EVENTS), 0)
        events = TopicReader(bootstrap, EVENTS, starts)
        self._wanted = events.end_offsets()
        events.close()
        self._reader = TopicReader(bootstrap, SEQUENCES, starts)
        self.found = dict.fromkeys(starts, 0)

    def caught_up(self) -> bool:
        for record in self._reader.poll(0.5):
            if message_kind(record.value) is Kind.PROGRESS:
                message = decode(record.value)
                assert isinstance(message, Progress)
                self.found[message.partition] = message.next_offset
        return all(self.found[p] >= wanted for p, wanted in self._wanted.items())

    def close(self) -> None:
        self._reader.close()


@dataclass
class Written:
    """Everything in the three output topics, a digest a record.

    `lanes` maps (topic, partition) to the digests in order; in the topics of one partition, where
    those of `events` meet in no order, sorted. `counters` are the newest of every partition,
    `num_history_tokens` how many the users' histories then hold.
    """

    lanes: dict[tuple[str, int], list[bytes]] = field(default_factory=lambda: defaultdict(list))
    counters: Counters = field(default_factory=Counters)
    num_history_tokens: int = 0

    @property
    def num_records(self) -> int:
        return sum(len(lane) for lane in self.lanes.values())

    def differences(self, other: Written) -> list[str]:
        """In which lanes, and from which record on, the other differs; and in which counters."""
        found = []
        for lane in sorted(self.lanes.keys() | other.lanes.keys()):
            ours, theirs = self.lanes.get(lane, []), other.lanes.get(lane, [])
            if ours != theirs:
                at = next(
                    (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), -1
                )
                counts = f"{len(ours)} and {len(theirs)} records"
                extra = len(set(theirs) - set(ours)), len(set(ours) - set(theirs))
                found.append(f"{lane}: {counts}, first difference at {at}, only in one {extra}")
        if self.counters != other.counters:
            found.append(f"counters: {self.counters} and {other.counters}")
        return found

    def digest(self) -> str:
        """One short text for all records."""
        joined = b"".join(b"".join(self.lanes[lane]) for lane in sorted(self.lanes))
        return hashlib.blake2b(joined, digest_size=8).hexdigest()

    def _sort(self) -> Written:
        for topic in (EVENTS_LATE, EVENTS_DEAD):
            self.lanes[topic, 0].sort()
        return self


def expected(bootstrap: str, config: FeaturesConfig) -> Written:
    """What the room without Flink makes of `events` as it now is."""
    partitions = partitions_of(bootstrap, EVENTS)
    assemblers = {p: PartitionAssembler(config, p, len(partitions)) for p in partitions}
    written = Written()
    histories: Counter[int] = Counter()
    for record in records_of(bootstrap, EVENTS):
        assembler = assemblers[record.partition]
        for output in assembler.process(record.offset, record.timestamp_ms, record.value):
            lane = record.partition if output.topic == SEQUENCES else 0
            headers = {name: text.encode() for name, text in (output.headers or {}).items()}
            digest = _digest(output.key.encode(), output.value, headers)
            written.lanes[output.topic, lane].append(digest)
            if output.topic == SEQUENCES and isinstance(m := decode(output.value), Sequence):
                histories[m.user_id] = min(histories[m.user_id] + m.num_targets, config.max_history)
    written.num_history_tokens = histories.total()
    for assembler in assemblers.values():
        written.counters += assembler.progress().counters
    return written._sort()


def committed(bootstrap: str) -> Written:
    """What a read_committed reader finds; progress messages must stand in their own partition."""
    written = Written()
    newest: dict[int, Progress] = {}
    for topic in (SEQUENCES, EVENTS_LATE, EVENTS_DEAD):
        for record in records_of(bootstrap, topic):
            if topic == SEQUENCES and message_kind(record.value) is Kind.PROGRESS:
                message = decode(record.value)
                assert isinstance(message, Progress)
                assert message.partition == record.partition
                newest[record.partition] = message
                continue
            digest = _digest(record.key or b"", record.value, dict(record.headers))
            written.lanes[topic, record.partition].append(digest)
    written.counters = sum((progress.counters for progress in newest.values()), Counters())
    return written._sort()


def records_of(bootstrap: str, topic: str) -> Iterator[Record]:
    """Every record committed by now; in order within a partition, never all in memory."""
    starts = dict.fromkeys(partitions_of(bootstrap, topic), 0)
    reader = TopicReader(bootstrap, topic, starts)
    try:
        ends = reader.end_offsets()
        deadline = time.monotonic() + _STALL_SECONDS
        while any(reader.next_offsets()[p] < end for p, end in ends.items()):
            polled = reader.poll(0.5)
            yield from (record for record in polled if record.offset < ends[record.partition])
            if polled:
                deadline = time.monotonic() + _STALL_SECONDS
            assert time.monotonic() < deadline, (
                f"{topic} stalls at {reader.next_offsets()} of {ends}"
            )
    finally:
        reader.close()


def _digest(key: bytes, value: bytes, headers: dict[str, bytes]) -> bytes:
    digest = hashlib.blake2b(key, digest_size=16)
    for part in (value, *(text for pair in sorted(headers.items()) for text in pair)):
        digest.update(b"\0")
        digest.update(part if isinstance(part, bytes) else part.encode())
    return digest.digest()
