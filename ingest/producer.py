"""The producer of topic `events`: every record is confirmed or the caller is told."""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from types import TracebackType
from typing import Any

from ingest.events import MAX_EVENT_BYTES, Event, Heartbeat, encode_record, partition_key
from ingest.metrics import DEAD, DELIVERY_FAILURES, EVENTS_ACKNOWLEDGED, HEARTBEATS, IN_FLIGHT
from ingest.runtime.errors import BrokerError
from ingest.runtime.kafka import (
    KafkaError,
    RetriableError,
    abandon_producer,
    make_producer,
    partitions_of,
)
from ingest.runtime.partitions import partition_of
from ingest.runtime.topics import EVENTS, EVENTS_DEAD

_MAX_DETAIL_BYTES = 4_096

# The hash in pure Python costs as much as the rest of a send.
_partition_of = lru_cache(maxsize=1 << 20)(partition_of)


def dead_letter_headers(
    source: str, raw: bytes, reason: str, detail: str
) -> list[tuple[str, bytes]]:
    """What a record of `events.dead` says of its bytes; `num_bytes` is their length before a cut."""
    return [
        ("reason", reason.encode()),
        ("detail", detail.encode(errors="replace")[:_MAX_DETAIL_BYTES]),
        ("source", source.encode()),
        ("num_bytes", b"%d" % len(raw)),
    ]


class EventProducer:
    """Sends events, heartbeats and dead letters; idempotent, in order, with bounded memory.

    Deliveries are checked in the order of sending, so `num_acknowledged` is the length of the
    confirmed prefix: what a resumed sender need not send again.

    Args:
        bootstrap: Kafka bootstrap servers.
        max_in_flight: records sent and not confirmed before a send waits.
        delivery_timeout_seconds: how long the broker may be away before a send or flush fails.
        linger_ms: how long a record waits for company; 0 for the lowest delay.

    Raises:
        BrokerError: no broker answers, or topic `events` does not exist.

    Example:
        with EventProducer("127.0.0.1:9092") as producer:
            producer.send(Event(event_id=1, user_id=7, item_id=3, action="click", event_time_ms=0))
            producer.flush()
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        max_in_flight: int = 20_000,
        delivery_timeout_seconds: float = 60.0,
        linger_ms: int = 20,
    ) -> None:
        self.bootstrap = bootstrap
        self.num_partitions = len(partitions_of(bootstrap, EVENTS))
        self.num_sent = 0
        self.num_acknowledged = 0
        self.num_dead = 0
        self._max_in_flight = max_in_flight
        self._timeout_seconds = delivery_timeout_seconds
        self._in_flight: deque[Any] = deque()
        self._producer = make_producer(
            bootstrap, linger_ms=linger_ms, delivery_timeout_seconds=delivery_timeout_seconds
        )

    def __enter__(self) -> EventProducer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.flush()
        self.close()

    def send(self, event: Event) -> None:
        """Send one event to its user's partition.

        Raises:
            BrokerError: the broker did not take an earlier record or has been away too long.
        """
        self.send_raw(partition_key(event.user_id), encode_record(event))

    def send_raw(self, key: bytes | None, value: bytes, *, partition: int | None = None) -> None:
        """Send bytes as they are, as any client could.

        Args:
            key: decimal user id.
            value: the record.
            partition: where a record without a key goes; 0 when not given.

        Raises:
            BrokerError: as `send`; also when the value is larger than a message may be.
        """
        if partition is None:
            partition = 0 if key is None else _partition_of(key, self.num_partitions)
        self._send(EVENTS, key, value, partition)

    def heartbeat(self, partition: int, heartbeat_ms: int) -> None:
        """Move one partition's clock to `heartbeat_ms` (int64 UTC)."""
        self._send(EVENTS, None, encode_record(Heartbeat(heartbeat_ms=heartbeat_ms)), partition)
        HEARTBEATS.inc()

    def heartbeat_all(self, heartbeat_ms: int) -> None:
        """Move every partition's clock to `heartbeat_ms`."""
        for partition in range(self.num_partitions):
            self.heartbeat(partition, heartbeat_ms)

    def dead(self, source: str, raw: bytes, reason: str, detail: str) -> None:
        """Put what cannot be an event into `events.dead`, with the reason in its headers.

        Bytes beyond what a message can carry are cut off and header `num_bytes` keeps the length.

        Args:
            source: where it stood, as `topic/partition/offset` or `log/row`.
            raw: what was found there.
            reason: one of those of `InvalidEvent`.
            detail: what is wrong with it.
        """
        headers = dead_letter_headers(source, raw, reason, detail)
        self._send(EVENTS_DEAD, source.encode(), raw[:MAX_EVENT_BYTES], 0, headers)
        self.num_dead += 1
        DEAD.labels(reason).inc()

    def _send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes,
        partition: int,
        headers: list[tuple[str, bytes]] | None = None,
    ) -> None:
        if len(self._in_flight) >= self._max_in_flight:
            # Waiting for half of them leaves the sending thread alone with the interpreter lock.
            self._confirm(self._max_in_flight // 2)
        try:
            future = self._producer.send(
                topic, value, key=key, partition=partition, headers=headers
            )
        except KafkaError as error:
            raise self._failed(error) from error
        self._in_flight.append(future)
        self.num_sent += 1

    def settle(self) -> int:
        """Check deliveries that are already decided, without waiting; returns `num_acknowledged`.

        Raises:
            BrokerError: a delivery failed.
        """
        self._confirm(0)
        return self.num_acknowledged

    def _confirm(self, num_wanted: int) -> None:
        """Take decided deliveries off the front; wait for the first `num_wanted` of them."""
        in_flight = self._in_flight
        confirmed = 0
        try:
            while in_flight and (confirmed < num_wanted or in_flight[0].is_done):
                future = in_flight[0]
                if not future.is_done or future.exception is not None:
                    # The client fails an overdue record itself; the margin is for it to do so.
                    future.get(timeout=self._timeout_seconds + 5)
                in_flight.popleft()
                confirmed += 1
        except KafkaError as error:
            raise self._failed(error) from error
        finally:
            self.num_acknowledged += confirmed
            EVENTS_ACKNOWLEDGED.inc(confirmed)
            IN_FLIGHT.set(len(in_flight))

    def _failed(self, error: KafkaError) -> BrokerError:
        return BrokerError(
            "sending events failed",
            detail=(
                f"{self.bootstrap} confirmed the first {self.num_acknowledged} of {self.num_sent} "
                f"records, then: {error!r}."
            ),
            hint="once the broker is back, run the same replay again: it resumes",
            retriable=isinstance(error, RetriableError),
        )

    def flush(self) -> None:
        """Wait until every record is confirmed.

        Raises:
            BrokerError: one was not; the message tells how many were.
        """
        try:
            self._producer.flush(timeout=self._timeout_seconds + 5)
        except KafkaError as error:
            raise self._failed(error) from error
        self._confirm(len(self._in_flight))

    def close(self) -> None:
        """Leave the broker at once; what was not flushed may be lost."""
        if self._in_flight:
            DELIVERY_FAILURES.inc(len(self._in_flight))
            self._in_flight.clear()
            abandon_producer(self._producer)
        else:
            self._producer.close(timeout=5)
