"""Where every Kafka client is made: producers, readers with explicit offsets, topics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    NotCoordinatorError,
    OffsetOutOfRangeError,
    TopicAlreadyExistsError,
)
from kafka.errors import KafkaError as KafkaError
from kafka.errors import RetriableError as RetriableError

from ingest.runtime.errors import BrokerError
from ingest.runtime.topics import TOPICS

_CONNECT_TIMEOUT_MS = 10_000
_STALL_SECONDS = 30
# So answers a broker that is asked for groups for the first time, or has just restarted.
_NOT_YET_COORDINATED = (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    NotCoordinatorError,
)


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


def make_producer(
    bootstrap: str, *, linger_ms: int = 20, delivery_timeout_seconds: float = 120.0
) -> KafkaProducer:
    """An idempotent producer: acknowledged by all replicas, retried without duplicates, in order.

    A record that is not acknowledged within the delivery timeout fails.

    Raises:
        BrokerError: no broker answers.
    """
    delivery_timeout_ms = int(delivery_timeout_seconds * 1000)
    try:
        return KafkaProducer(
            bootstrap_servers=bootstrap,
            enable_idempotence=True,
            acks="all",
            linger_ms=linger_ms,
            batch_size=128 * 1024,
            # The checksum is pure Python: over compressed bytes it is five times cheaper.
            compression_type="lz4",
            delivery_timeout_ms=delivery_timeout_ms,
            request_timeout_ms=min(30_000, delivery_timeout_ms - linger_ms),
            max_block_ms=delivery_timeout_ms,
            reconnect_backoff_max_ms=1_000,
            bootstrap_timeout_ms=_CONNECT_TIMEOUT_MS,
        )
    except KafkaError as error:
        raise _unreachable(bootstrap, error) from error


def abandon_producer(producer: KafkaProducer) -> None:
    """Close a producer at once; records that are not acknowledged fail and may be lost."""
    # Its own close waits for them first and gives up half-way when the broker is gone, leaving a
    # thread behind that tries for ever.
    producer._sender.force_close()
    producer._sender.join(_CONNECT_TIMEOUT_MS / 1000)
    producer.close(timeout=1)


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
            raise self._failed(error) from error
        return [
            Record(r.partition, r.offset, r.timestamp, r.key, r.value or b"", tuple(r.headers))
            for records in polled.values()
            for r in records
        ]

    def hold(self, partitions: set[int]) -> None:
        """Leave these partitions out of `poll` until a call no longer names them."""
        held = [tp for tp in self._partitions if tp.partition in partitions]
        self._consumer.resume(*[tp for tp in self._partitions if tp not in held])
        self._consumer.pause(*held)

    def next_offsets(self) -> dict[int, int]:
        """Partition -> offset of the next record `poll` will look at."""
        return {tp.partition: self._consumer.position(tp) for tp in self._partitions}

    def beginning_offsets(self) -> dict[int, int]:
        """Partition -> first offset still in the log.

        Raises:
            BrokerError: the broker failed.
        """
        return self._ask(self._consumer.beginning_offsets)

    def end_offsets(self) -> dict[int, int]:
        """Partition -> offset after the last committed record.

        Raises:
            BrokerError: the broker failed.
        """
        return self._ask(self._consumer.end_offsets)

    def _ask(
        self, offsets_of: Callable[[list[TopicPartition]], dict[TopicPartition, int]]
    ) -> dict[int, int]:
        try:
            found = offsets_of(self._partitions)
        except KafkaError as error:
            raise self._failed(error) from error
        return {tp.partition: offset for tp, offset in found.items()}

    def _failed(self, error: KafkaError) -> BrokerError:
        return BrokerError(f"reading {self._topic} failed", detail=repr(error), retriable=True)

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

    Raises:
        BrokerError: no broker answers, it stops answering, or there is no such topic.
    """
    reader = TopicReader(bootstrap, topic, dict.fromkeys(partitions_of(bootstrap, topic), 0))
    records: list[Record] = []
    try:
        ends = reader.end_offsets()
        at, deadline = reader.next_offsets(), time.monotonic() + _STALL_SECONDS
        while any(at[p] < end for p, end in ends.items()):
            records.extend(reader.poll(0.5))
            before, at = at, reader.next_offsets()
            if at != before:
                deadline = time.monotonic() + _STALL_SECONDS
            elif time.monotonic() > deadline:
                raise BrokerError(
                    f"reading {topic} does not go on",
                    detail=f"Nothing came for {_STALL_SECONDS} s at {at} of {ends}.",
                    hint="see whether the broker still runs",
                    retriable=True,
                )
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
        with _asking(bootstrap):
            found = consumer.partitions_for_topic(topic)
    finally:
        consumer.close()
    if not found:
        raise BrokerError(
            "no such topic",
            detail=f"{topic} is not on {bootstrap}.",
            hint="freshet ingest topics create",
        )
    return sorted(found)


def cluster_id(bootstrap: str) -> str:
    """The id Kafka gave the cluster when its storage was formatted.

    Raises:
        BrokerError: no broker answers.
    """
    with _administering(bootstrap) as admin:
        return str(admin.describe_cluster()["cluster_id"])


@contextmanager
def _asking(bootstrap: str) -> Iterator[None]:
    try:
        yield
    except KafkaError as error:
        raise _unreachable(bootstrap, error) from error


@contextmanager
def _administering(bootstrap: str) -> Iterator[KafkaAdminClient]:
    with _asking(bootstrap):
        admin = KafkaAdminClient(
            bootstrap_servers=bootstrap, bootstrap_timeout_ms=_CONNECT_TIMEOUT_MS
        )
        try:
            yield admin
        finally:
            admin.close()


def topic_partitions(bootstrap: str) -> dict[str, int]:
    """Topic -> partition count, for every topic on the broker that is in the topic table.

    Raises:
        BrokerError: no broker answers.
    """
    with _administering(bootstrap) as admin:
        present = set(admin.list_topics())
        names = [topic.name for topic in TOPICS if topic.name in present]
        found = admin.describe_topics(names) if names else []
        return {str(topic["name"]): len(topic["partitions"]) for topic in found}


def topic_ids(bootstrap: str, names: Iterable[str]) -> dict[str, str]:
    """Topic -> the id it got when it was created; another topic of the same name has another.

    Raises:
        BrokerError: no broker answers.
    """
    with _administering(bootstrap) as admin:
        return {str(t["name"]): str(t["topic_id"]) for t in admin.describe_topics(list(names))}


def group_offsets(bootstrap: str, group: str, topic: str) -> dict[int, int]:
    """Partition -> offset a consumer group committed as the next to read; none where it never did.

    Raises:
        BrokerError: no broker answers, or none coordinates the group.
    """
    deadline = time.monotonic() + _STALL_SECONDS
    while True:
        with _administering(bootstrap) as admin:
            try:
                found = admin.list_group_offsets(group)[group]
                break
            except _NOT_YET_COORDINATED:
                if time.monotonic() > deadline:
                    raise
        time.sleep(0.2)
    return {tp.partition: at.offset for tp, at in found.items() if tp.topic == topic}


def create_topics(bootstrap: str, num_partitions: int, names: Iterable[str] | None = None) -> None:
    """Create what is missing of the topic table; an existing topic stays as it is.

    Raises:
        BrokerError: no broker answers, or an existing topic has another partition count.
    """
    chosen = None if names is None else set(names)
    wanted = {
        topic.name: (num_partitions if topic.partitioned else 1, topic.settings)
        for topic in TOPICS
        if chosen is None or topic.name in chosen
    }
    with _administering(bootstrap) as admin:
        missing = set(wanted) - set(admin.list_topics())
        # -1: the broker's own default.
        topics = [
            NewTopic(name, wanted[name][0], -1, topic_configs=wanted[name][1]) for name in missing
        ]
        try:
            if topics:
                admin.create_topics(topics)
        except TopicAlreadyExistsError:
            pass  # another process creates the same table right now; what it made is checked below
        except KafkaError as error:
            raise BrokerError(
                "creating topics failed", detail=repr(error), retriable=True
            ) from error
    _await_topics(bootstrap, {name: count for name, (count, _) in wanted.items()})


def _await_topics(bootstrap: str, wanted: dict[str, int]) -> None:
    deadline = time.monotonic() + 30
    while not wanted.keys() <= (found := topic_partitions(bootstrap)).keys():
        if time.monotonic() > deadline:
            raise BrokerError(
                "topics did not appear",
                detail=f"Missing after 30 s: {sorted(wanted.keys() - found.keys())}.",
                retriable=True,
            )
        time.sleep(0.1)
    for name, count in wanted.items():
        if found[name] != count:
            raise BrokerError(
                "topic has another partition count",
                detail=f"{name}: found {found[name]}, wanted {count}.",
                hint="a user's partition is part of the semantics; use a fresh topic",
            )
