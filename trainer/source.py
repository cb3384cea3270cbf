"""From polled records to batches: corrupt ones to `sequences.dead`, the rest in order."""

from __future__ import annotations

from typing import Any, Protocol

from features.sequences import CorruptSequence
from ingest.runtime.errors import BrokerError
from ingest.runtime.kafka import KafkaError, Record, make_producer
from ingest.runtime.topics import SEQUENCES_DEAD
from trainer import metrics
from trainer.export import Position
from trainer.stream import Batcher, Merge, MessageBatch, read_message

_MAX_UNDER_WAY = 1_000  # a log of nothing but corrupt records brings no checkpoint to flush at


class Reader(Protocol):
    """What the trainer needs of `ingest.runtime.kafka.TopicReader`."""

    def poll(self, timeout_seconds: float) -> list[Record]:
        """The next records, in offset order within each partition."""
        ...

    def hold(self, partitions: set[int]) -> None:
        """Leave these partitions out of `poll` until they are no longer named."""
        ...


class Graveyard(Protocol):
    """Where records go that are no message."""

    def send(self, record: Record, error: CorruptSequence) -> None:
        """Take one."""
        ...

    def flush(self) -> None:
        """Return when all that was taken is safe."""
        ...


class DeadLetters:
    """Writes records that are no message to `sequences.dead`, with their bytes and the reason."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._producer = make_producer(bootstrap)
        self._topic = topic
        self._sent: list[Any] = []

    def send(self, record: Record, error: CorruptSequence) -> None:
        """Write one; the key names the source, so a repeat after a crash can be told.

        Raises:
            BrokerError: it, or one before it, was not taken.
        """
        source = f"{self._topic}/{record.partition}/{record.offset}".encode()
        headers = [
            ("reason", error.primary.encode()),
            ("detail", error.detail.encode()),
            ("source", source),
        ]
        try:
            sent = self._producer.send(
                SEQUENCES_DEAD, key=source, value=record.value, headers=headers
            )
        except KafkaError as failure:
            raise _write_failed(failure) from failure
        self._sent.append(sent)
        if len(self._sent) >= _MAX_UNDER_WAY:
            self.flush()

    def flush(self) -> None:
        """Wait until everything sent is acknowledged.

        Raises:
            BrokerError: something was not.
        """
        if not self._sent:
            return
        try:
            self._producer.flush()
        except KafkaError as failure:
            raise _write_failed(failure) from failure
        for sent in self._sent:
            if not sent.succeeded():
                raise _write_failed(sent.exception)
        self._sent.clear()

    def close(self) -> None:
        """Flush and leave the broker."""
        self._producer.close()


def _write_failed(error: object) -> BrokerError:
    return BrokerError(f"writing {SEQUENCES_DEAD} failed", detail=repr(error), retriable=True)


class Source:
    """A rank's partitions as batches.

    Args:
        max_buffered_tokens: reading a partition pauses while its share of this waits.
        graveyard: takes each record that is no message.
    """

    def __init__(
        self,
        reader: Reader,
        positions: dict[int, Position],
        *,
        graveyard: Graveyard,
        max_history: int,
        token_budget: int,
        max_buffered_tokens: int,
        max_wait_seconds: float | None,
        stop_at_clock_ms: int | None,
    ) -> None:
        self._reader = reader
        self._graveyard = graveyard
        self._max_history = max_history
        self._share = max_buffered_tokens // max(1, len(positions))
        self._num_forced = 0
        self._merge = Merge(
            positions, stop_at_clock_ms=stop_at_clock_ms, max_wait_seconds=max_wait_seconds
        )
        self._batcher = Batcher(
            self._merge, token_budget=token_budget, max_wait_seconds=max_wait_seconds
        )

    def poll(self, timeout_seconds: float, *, now_seconds: float) -> None:
        """Read on, from the partitions that have room."""
        waiting = self._merge.num_tokens()
        self._reader.hold({p for p, num_tokens in waiting.items() if num_tokens >= self._share})
        for record in self._reader.poll(timeout_seconds):
            self._take(record, now_seconds)
        metrics.buffered_tokens.set(sum(self._merge.num_tokens().values()))

    def _take(self, record: Record, now_seconds: float) -> None:
        try:
            message = read_message(
                record, max_history=self._max_history, arrived_seconds=now_seconds
            )
        except CorruptSequence as error:
            metrics.dead_messages.labels(reason=error.primary).inc()
            self._graveyard.send(record, error)
            self._merge.skip(record.partition, record.offset)
        else:
            self._merge.push(message)

    def next_batch(self, *, now_seconds: float) -> MessageBatch | None:
        """The next batch, or None until more was read."""
        batch = self._batcher.next_batch(now_seconds=now_seconds)
        metrics.forced_releases.inc(self._merge.num_forced - self._num_forced)
        self._num_forced = self._merge.num_forced
        return batch

    def positions(self) -> dict[int, Position]:
        """Where this rank's partitions stand, before anything was cut."""
        return self._merge.positions()

    @property
    def ended(self) -> bool:
        """Whether everything up to the stop clock was handed out."""
        return self._batcher.ended
