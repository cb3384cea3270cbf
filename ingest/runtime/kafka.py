"""The only module that imports kafka-python: producers, readers with explicit offsets, topics."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import KafkaError, OffsetOutOfRangeError

from ingest.runtime.errors import BrokerError
from ingest.runtime.topics import TOPICS

_CONNECT_TIMEOUT_MS = 10_000


class Record(NamedTuple):
    """One record as it lies in a partition; a null value reads as empty bytes."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


def _unreachable(bootstrap: str, error: KafkaError) -> BrokerError:
    return BrokerError(
        "broker not reachable",
        detail=f"{bootstrap}: {error!r}.",
        hint="start the broker, or set FRESHET_BOOTSTRAP to where it listens",
        retriable=True,
    )


def make_producer(bootstrap: str, *, linger_ms: int = 20) -> KafkaProducer:
    """An idempotent producer: acknowledged by all replicas, retried without duplicates, in order.

    Raises:
        BrokerError: no broker answers.
    """
    try:
        return KafkaProducer(
            bootstrap_servers=bootstrap,
            enable_idempotence=True,
            acks="all",
            linger_ms=linger_ms,
            batch_size=128 * 1024,
            bootstrap_timeout_ms=_CONNECT_TIMEOUT_MS,
        )
    except KafkaError as error:
        raise _unreachable(bootstrap, error) from error


class TopicReader:
    """Reads committed records of given partitions from given offsets; keeps no offsets in Kafka.

    Args:
        positions: partition -> offset of the first record wanted.

    Raises:
        BrokerError: no broker answers, or a position is no longer in the log.
    """

    def __init__(self, bootstrap: str, topic: str, positions: dict[int, int]) -> None:
        self._topic = topic
        try:
            self._consumer = KafkaConsumer(
                bootstrap_servers=bootstrap,
                isolation_level="read_committed",
                enable_auto_commit=False,
                auto_offset_reset="none",
                bootstrap_timeout_ms=_CONNECT_TIMEOUT_MS,
                fetch_max_wait_ms=100,
                max_poll_records=5_000,
            )
        except KafkaError as error:
            raise _unreachable(bootstrap, error) from error
        self._partitions = [TopicPartition(topic, p) for p in sorted(positions)]
        self._consumer.assign(self._partitions)
        for partition in self._partitions:
            self._consumer.seek(partition, positions[partition.partition])

    def poll(self, timeout_seconds: float) -> list[Record]:
        """The next records, in offset order within each partition; empty when none came in time.

        Raises:
            BrokerError: a position is no longer in the log (not retriable), or the broker failed.
        """
        try:
            polled = self._consumer.poll(timeout_ms=int(timeout_seconds * 1000))
        except OffsetOutOfRangeError as error:
            raise BrokerError(
                f"position not in {self._topic}",
                detail=f"{error}; the log begins at {self.beginning_offsets()}.",
                hint="retention deleted records that were never read, or the topic was recreated",
            ) from error
        except KafkaError as error:
            raise BrokerError(
                f"reading {self._topic} failed", detail=repr(error), retriable=True
            ) from error
        return [
            Record(r.partition, r.offset, r.timestamp, r.key, r.value or b"", tuple(r.headers))
            for records in polled.values()
            for r in records
        ]

    def next_offsets(self) -> dict[int, int]:
        """Partition -> offset of the next record `poll` will look at."""
        return {tp.partition: self._consumer.position(tp) for tp in self._partitions}

    def beginning_offsets(self) -> dict[int, int]:
        """Partition -> first offset still in the log."""
        found = self._consumer.beginning_offsets(self._partitions)
        return {tp.partition: offset for tp, offset in found.items()}

    def end_offsets(self) -> dict[int, int]:
        """Partition -> offset after the last committed record."""
        found = self._consumer.end_offsets(self._partitions)
        return {tp.partition: offset for tp, offset in found.items()}

    def drained(self) -> bool:
        """Whether everything committed so far was polled."""
        at = self.next_offsets()
        return all(at[p] >= end for p, end in self.end_offsets().items())

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()


def read_all(bootstrap: str, topic: str) -> list[Record]:
    """Every record committed to a topic by now, partition by partition.

    For checks and reports; a service reads on with a TopicReader.
    """
    reader = TopicReader(bootstrap, topic, dict.fromkeys(partitions_of(bootstrap, topic), 0))
    records: list[Record] = []
    try:
        ends = reader.end_offsets()
        while any(reader.next_offsets()[p] < end for p, end in ends.items()):
            records.extend(reader.poll(0.5))
    finally:
        reader.close()
    records.sort(key=lambda record: (record.partition, record.offset))
    return records


def partitions_of(bootstrap: str, topic: str) -> list[int]:
    """The partition numbers of a topic.

    Raises:
        BrokerError: no broker answers, or there is no such topic.
    """
    try:
        consumer = KafkaConsumer(
            bootstrap_servers=bootstrap, bootstrap_timeout_ms=_CONNECT_TIMEOUT_MS
        )
    except KafkaError as error:
        raise _unreachable(bootstrap, error) from error
    try:
        found = consumer.partitions_for_topic(topic)
    finally:
        consumer.close()
    if not found:
        raise BrokerError(
            "no such topic", detail=f"{topic} is not on {bootstrap}.", hint="freshet topics create"
        )
    return sorted(found)


def create_topics(bootstrap: str, num_partitions: int, names: Iterable[str] | None = None) -> None:
    """Create what is missing of the topic table; an existing topic stays as it is.

    Raises:
        BrokerError: no broker answers, or an existing topic has another partition count.
    """
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=bootstrap, bootstrap_timeout_ms=_CONNECT_TIMEOUT_MS
        )
    except KafkaError as error:
        raise _unreachable(bootstrap, error) from error
    wanted = {
        topic.name: (num_partitions if topic.partitioned else 1, topic.settings)
        for topic in TOPICS
        if names is None or topic.name in set(names)
    }
    try:
        missing = set(wanted) - set(admin.list_topics())
        if missing:
            admin.create_topics(
                [NewTopic(name, wanted[name][0], 1, topic_configs=wanted[name][1]) for name in missing]
            )
        _await_topics(bootstrap, {name: count for name, (count, _) in wanted.items()})
    finally:
        admin.close()


def _await_topics(bootstrap: str, wanted: dict[str, int]) -> None:
    deadline = time.monotonic() + 30
    for name, count in wanted.items():
        while True:
            try:
                found = len(partitions_of(bootstrap, name))
                break
            except BrokerError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        if found != count:
            raise BrokerError(
                "topic has another partition count",
                detail=f"{name}: found {found}, wanted {count}.",
                hint="a user's partition is part of the semantics; use a fresh topic",
            )
