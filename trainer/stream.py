"""One order for all partitions, and batches cut from it: both a function of the log alone.

Partitions arrive in any interleaving. A message is released when nothing that sorts before it, by
(clock_ms, partition, offset), can still come: every other partition shows its next message or has
shown a clock past this one. Nothing here knows Kafka, tensors or the wall clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from features.sequence_reader import check_message
from features.sequences import HEADER_STRUCT, Kind
from ingest.runtime.kafka import Record
from trainer.export import Position

_NEVER = 2**63 - 1


class Message(NamedTuple):
    """One message of a partition; a progress message has `num_tokens` -1 and no value.

    `num_tokens` counts what the model will read: the kept history and the targets.
    """

    clock_ms: int
    partition: int
    offset: int
    num_tokens: int
    value: bytes
    arrived_seconds: float

    @property
    def is_progress(self) -> bool:
        """Whether it only moves its partition's clock."""
        return self.num_tokens < 0


def read_message(record: Record, *, max_history: int, arrived_seconds: float) -> Message:
    """Check a record of `sequences` and take what ordering needs.

    Raises:
        CorruptSequence: not a message of this schema, not this partition's, or with a negative id.
    """
    kind = check_message(record.value, record.partition)
    _, _, partition, _, _, clock_ms, _, _, num_tokens, num_targets = HEADER_STRUCT.unpack_from(
        record.value
    )
    if kind is Kind.PROGRESS:
        return Message(clock_ms, partition, record.offset, -1, b"", arrived_seconds)
    kept = min(num_tokens - num_targets, max_history) + num_targets
    return Message(clock_ms, partition, record.offset, kept, record.value, arrived_seconds)


@dataclass
class _Line:
    """A partition: what was read of it and not released, and how far it has shown itself."""

    next_offset: int
    clock_ms: int
    closed_ms: int
    ended: bool = False
    num_tokens: int = 0
    waiting: deque[Message] = field(default_factory=deque)

    @property
    def bound_ms(self) -> int:
        """The least clock a message not read yet can have."""
        return _NEVER if self.ended else self.clock_ms

    def pass_progress(self) -> None:
        """Step over progress messages with no unreleased message before them."""
        while self.waiting and self.waiting[0].is_progress:
            passed = self.waiting.popleft()
            self.next_offset = passed.offset + 1
            self.closed_ms = max(self.closed_ms, passed.clock_ms)


class Merge:
    """Merges partitions into the order (clock_ms, partition, offset).

    Args:
        positions: where each partition starts; `clock_ms` is the last progress clock passed.
        stop_at_clock_ms: a partition ends at its first progress message with this clock or more;
            what lies behind it is not of this run.
        max_wait_seconds: None waits for ever, so the order is a function of the log alone; else a
            message that waited longer is released in the order available.

    Example:
        >>> merge = Merge({0: Position(offset=0), 1: Position(offset=0)})
        >>> merge.push(Message(5, 0, 0, 1, b"", 0.0))
        >>> merge.pop(now_seconds=0.0) is None  # partition 1 may still come with clock 4
        True
        >>> merge.push(Message(6, 1, 0, -1, b"", 0.0))
        >>> merge.pop(now_seconds=0.0).offset
        0
    """

    def __init__(
        self,
        positions: dict[int, Position],
        *,
        stop_at_clock_ms: int | None = None,
        max_wait_seconds: float | None = None,
    ) -> None:
        self._stop_at_ms = _NEVER if stop_at_clock_ms is None else stop_at_clock_ms
        self._max_wait_seconds = max_wait_seconds
        self.num_forced = 0
        self._lines = {
            partition: _Line(
                next_offset=at.offset,
                clock_ms=at.clock_ms,
                closed_ms=at.clock_ms,
                ended=at.clock_ms >= self._stop_at_ms,
            )
            for partition, at in sorted(positions.items())
        }

    def push(self, message: Message) -> None:
        """Take a partition's next message; what lies behind the partition's end is left alone."""
        line = self._lines[message.partition]
        if line.ended:
            return
        # A partition's clock never falls; if a message says so, its place in the log decides.
        clock_ms = line.clock_ms = max(line.clock_ms, message.clock_ms)
        if not message.is_progress and clock_ms > self._stop_at_ms:
            line.ended = True
            return
        line.waiting.append(message._replace(clock_ms=clock_ms))
        if message.is_progress:
            line.ended = clock_ms >= self._stop_at_ms
            line.pass_progress()
        else:
            line.num_tokens += message.num_tokens

    def skip(self, partition: int, offset: int) -> None:
        """Step over a record that is no message."""
        line = self._lines[partition]
        if not line.ended:
            # Kept in line, so that a position never points past untrained messages before it.
            line.waiting.append(Message(-1, partition, offset, -1, b"", 0.0))
            line.pass_progress()

    def pop(self, *, now_seconds: float) -> Message | None:
        """The next message of the order, or None until more of the log is known."""
        heads = [line.waiting[0] for line in self._lines.values() if line.waiting]
        if not heads:
            return None
        first = min(heads, key=lambda m: m[:3])
        for partition, line in self._lines.items():
            blocked = not line.waiting and (line.bound_ms, partition) <= first[:2]
            if blocked and partition != first.partition:
                if not self._waited(first, now_seconds):
                    return None
                self.num_forced += 1
                break
        line = self._lines[first.partition]
        line.waiting.popleft()
        line.next_offset = first.offset + 1
        line.num_tokens -= first.num_tokens
        line.pass_progress()
        return first

    def _waited(self, message: Message, now_seconds: float) -> bool:
        limit = self._max_wait_seconds
        return limit is not None and now_seconds - message.arrived_seconds > limit

    def positions(self) -> dict[int, Position]:
        """Where to read on so that nothing released comes again and nothing else is missed."""
        return {
            partition: Position(offset=line.next_offset, clock_ms=line.closed_ms)
            for partition, line in self._lines.items()
        }

    def num_tokens(self) -> dict[int, int]:
        """Tokens waiting, by partition."""
        return {partition: line.num_tokens for partition, line in self._lines.items()}

    @property
    def ended(self) -> bool:
        """Whether every partition reached its end and everything was released."""
        return all(line.ended and not line.waiting for line in self._lines.values())


@dataclass(frozen=True, kw_only=True)
class MessageBatch:
    """Messages to train in one step, and where training stands after it."""

    values: tuple[bytes, ...]
    clock_ms: int
    positions: dict[int, Position]


class Batcher:
    """Cuts the merged order into batches of at least `token_budget` tokens.

    A batch is full when the budget is reached, so it exceeds it by less than one message. A batch
    below the budget is cut only at the end of the run, or in live mode (`max_wait_seconds` set)
    when its oldest message waited that long.
    """

    def __init__(
        self, merge: Merge, *, token_budget: int, max_wait_seconds: float | None = None
    ) -> None:
        self._merge = merge
        self._token_budget = token_budget
        self._max_wait_seconds = max_wait_seconds
        self._forming: list[Message] = []
        self._num_tokens = 0

    def next_batch(self, *, now_seconds: float) -> MessageBatch | None:
        """The next batch, or None until more of the log is known."""
        while self._num_tokens < self._token_budget:
            message = self._merge.pop(now_seconds=now_seconds)
            if message is None:
                if self._forming and (self._merge.ended or self._waited(now_seconds)):
                    return self._cut()
                return None
            self._forming.append(message)
            self._num_tokens += message.num_tokens
        return self._cut()

    @property
    def ended(self) -> bool:
        """Whether the last batch of the run was cut."""
        return self._merge.ended and not self._forming

    def _waited(self, now_seconds: float) -> bool:
        if self._max_wait_seconds is None:
            return False
        oldest = min(message.arrived_seconds for message in self._forming)
        return now_seconds - oldest > self._max_wait_seconds

    def _cut(self) -> MessageBatch:
        batch = MessageBatch(
            values=tuple(message.value for message in self._forming),
            clock_ms=max(message.clock_ms for message in self._forming),
            positions=self._merge.positions(),
        )
        self._forming, self._num_tokens = [], 0
        return batch


def owned_partitions(partitions: Iterable[int], *, rank: int, world: int) -> list[int]:
    """The partitions a rank reads.

    Example:
        >>> owned_partitions(range(5), rank=1, world=2)
        [1, 3]
    """
    return [partition for partition in sorted(partitions) if partition % world == rank]
