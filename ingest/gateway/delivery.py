"""Records to Kafka from an event loop: handed over at once, awaited until the broker confirms."""

from __future__ import annotations

import asyncio
import threading
from functools import lru_cache, partial
from typing import Any, NamedTuple

import structlog

from ingest.runtime.errors import BrokerError
from ingest.runtime.kafka import KafkaError, abandon_producer, make_producer, partitions_of
from ingest.runtime.partitions import partition_of
from ingest.runtime.topics import EVENTS, EVENTS_DEAD

_partition_of = lru_cache(maxsize=1 << 20)(partition_of)
_log = structlog.get_logger()

# The client fails an overdue record itself; the margin is for it to do so.
_MARGIN_SECONDS = 5


class Outgoing(NamedTuple):
    """One record to write; a record of topic `events` goes to the partition of its key."""

    topic: str
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]] | None = None


class Delivery:
    """An idempotent producer that comes back by itself when the broker was away.

    A producer that lost a record is given up with all it holds: what it still has in flight would
    otherwise arrive behind what was answered as unconfirmed, in an order nobody chose.

    Args:
        bootstrap: Kafka bootstrap servers.
        timeout_seconds: how long the broker may take to confirm.
        retry_seconds: between two attempts to reach it again.
    """

    def __init__(
        self, bootstrap: str, *, timeout_seconds: float, retry_seconds: float = 1.0
    ) -> None:
        self._bootstrap = bootstrap
        self._timeout_seconds = timeout_seconds
        self._retry_seconds = retry_seconds
        self._producer: Any = None
        self._num_partitions = 0
        self._connecting: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a producer to give records to."""
        return self._producer is not None

    def connect(self) -> None:
        """Keep trying, in the background, until the broker answers."""
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        while self._producer is None:
            try:
                self._num_partitions, self._producer = await asyncio.to_thread(self._make)
            except BrokerError as error:
                _log.warning(error.primary, detail=error.detail, hint=error.hint)
                await asyncio.sleep(self._retry_seconds)
        self._connecting = None
        _log.info("broker connected", bootstrap=self._bootstrap)

    def _make(self) -> tuple[int, Any]:
        num_partitions = len(partitions_of(self._bootstrap, EVENTS))
        producer = make_producer(
            self._bootstrap, linger_ms=5, delivery_timeout_seconds=self._timeout_seconds
        )
        try:
            # Else a topic's first record waits for its partitions, and the event loop with it.
            for topic in (EVENTS, EVENTS_DEAD):
                producer.partitions_for(topic)
        except KafkaError as error:
            abandon_producer(producer)
            raise BrokerError("topics not found", detail=repr(error), retriable=True) from error
        return num_partitions, producer

    async def deliver(self, records: list[Outgoing]) -> list[bool]:
        """Write records in order; for each, whether the broker confirmed it.

        Raises:
            BrokerError: there is no broker now; nothing was handed over.
        """
        producer = self._producer
        if producer is None:
            raise BrokerError(
                "broker not reachable", detail=f"{self._bootstrap} is away.", retriable=True
            )
        if not records:
            return []
        settled = _Settled(len(records))
        for at, record in enumerate(records):
            partition = (
                _partition_of(record.key, self._num_partitions) if record.topic == EVENTS else 0
            )
            try:
                future = producer.send(
                    record.topic,
                    record.value,
                    key=record.key,
                    partition=partition,
                    headers=record.headers,
                )
            except KafkaError as error:
                settled.failed(at, error)
            else:
                future.add_callback(partial(settled.confirmed, at))
                future.add_errback(partial(settled.failed, at))
        confirmed = await settled.wait(self._timeout_seconds + _MARGIN_SECONDS)
        if not all(confirmed):
            self._give_up(producer, settled.error)
        return confirmed

    def _give_up(self, producer: Any, error: BaseException | None) -> None:
        if self._producer is not producer:
            return
        _log.warning("broker lost", error=repr(error))
        self._producer = None
        threading.Thread(target=abandon_producer, args=(producer,), daemon=True).start()
        self.connect()

    async def close(self) -> None:
        """Leave the broker; every delivery was awaited by its request."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._producer is not None:
            await asyncio.to_thread(self._producer.close, timeout=5)


class _Settled:
    """Waits in the event loop for deliveries that the client's own thread decides."""

    def __init__(self, num_records: int) -> None:
        self.error: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self._all: asyncio.Future[None] = self._loop.create_future()
        self._confirmed = [False] * num_records
        self._num_left = num_records
        self._lock = threading.Lock()

    def confirmed(self, at: int, _metadata: object) -> None:
        self._confirmed[at] = True
        self._settle()

    def failed(self, at: int, error: BaseException) -> None:
        self.error = error
        self._settle()

    def _settle(self) -> None:
        with self._lock:
            self._num_left -= 1
            done = self._num_left == 0
        if done:
            self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if not self._all.done():  # the request may have been cancelled meanwhile
            self._all.set_result(None)

    async def wait(self, timeout_seconds: float) -> list[bool]:
        """For each record whether it is confirmed, once all are decided or the time is over."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._all
        except TimeoutError as error:
            self.error = error
        return list(self._confirmed)
