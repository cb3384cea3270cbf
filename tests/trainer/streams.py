"""Recorded streams: records of `sequences` whose labels depend on the item, in several partitions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from features.sequences import (
    CONTEXT_BIT,
    HEADER,
    SESSION_START_BIT,
    TOKEN_BITS,
    TOKEN_STRUCT,
    Counters,
    Progress,
    Sequence,
    context_id,
    decode,
    encode_correction,
    encode_progress,
    encode_targets,
)
from ingest.runtime.kafka import Record

LIKE = TOKEN_BITS["like"]
CLICK = TOKEN_BITS["click"]
TASKS = (("like", LIKE), ("click", CLICK))
STEP_MS = 1_000
_START_MS = 1_700_000_000_000


class RecordedReader:
    """What TopicReader does, over records in memory; `poll` takes partitions in a seeded order."""

    def __init__(self, records: list[Record], positions: dict[int, int], *, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._left = {
            partition: [r for r in records if r.partition == partition and r.offset >= offset]
            for partition, offset in positions.items()
        }
        self._held: set[int] = set()

    def poll(self, timeout_seconds: float) -> list[Record]:
        """A few records of a few partitions."""
        polled: list[Record] = []
        for partition in self._random.permutation(sorted(self._left)).tolist():
            if partition not in self._held:
                count = int(self._random.integers(0, 8))
                polled += self._left[partition][:count]
                del self._left[partition][:count]
        return polled

    def hold(self, partitions: set[int]) -> None:
        """Leave partitions out."""
        self._held = partitions


class Buried:
    """A graveyard in memory."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def send(self, record: Record, error: Exception) -> None:
        """Keep the reason."""
        self.reasons.append(str(error))

    def flush(self) -> None:
        """Nothing is under way."""


def targets_record(
    partition: int, offset: int, clock_ms: int, *, user_id: int, tokens: list[tuple[int, int]],
    num_targets: int = 1,
) -> Record:  # fmt: skip
    """A targets message; `tokens` are (item, actions), a second apart, the last at the clock."""
    first_ms = clock_ms - STEP_MS * (len(tokens) - 1)
    packed = b"".join(
        TOKEN_STRUCT.pack(item, first_ms + STEP_MS * i, 0, 0, actions)
        for i, (item, actions) in enumerate(tokens)
    )
    value = encode_targets(
        partition=partition, user_id=user_id, clock_ms=clock_ms, first_offset=offset,
        last_offset=offset, lifetime_tokens=len(tokens) - num_targets, tokens=packed,
        target_offsets=list(range(num_targets)),
    )  # fmt: skip
    return Record(partition, offset, clock_ms, b"%d" % user_id, value, ())


def progress_record(partition: int, offset: int, clock_ms: int) -> Record:
    """A progress message."""
    progress = Progress(
        partition=partition, clock_ms=clock_ms, next_offset=offset, counters=Counters()
    )
    return Record(partition, offset, clock_ms, None, encode_progress(progress), ())


def recorded(
    *, num_messages: int, num_partitions: int = 2, num_items: int = 20, seed: int = 0
) -> list[Record]:
    """A stream where half of the items are liked nine times of ten, the others one of ten.

    Every user's history grows by his targets; every partition ends with a progress message whose
    clock is `end_ms(num_messages)`.
    """
    random = np.random.default_rng(seed)
    liked = np.where(np.arange(num_items) % 2 == 0, 0.9, 0.1)
    histories: dict[int, list[tuple[int, int]]] = {}
    records: list[Record] = []
    offsets = dict.fromkeys(range(num_partitions), 0)

    def take(partition: int) -> int:
        offsets[partition] += 1
        return offsets[partition] - 1

    for index in range(num_messages):
        user = int(random.integers(0, 12))
        partition = user % num_partitions
        clock_ms = _START_MS + index // 3 * STEP_MS
        targets = []
        for item in random.integers(0, num_items, int(random.integers(1, 4))).tolist():
            actions = (LIKE if random.random() < liked[item] else 0) | CLICK * (item % 3 == 0)
            targets.append((1_000 + 7 * item, actions | 1))
        history = histories.setdefault(user, [])
        records.append(
            targets_record(
                partition, take(partition), clock_ms, user_id=user, tokens=history + targets,
                num_targets=len(targets),
            )
        )  # fmt: skip
        histories[user] = (history + targets)[-8:]
        if index % 4 == 3:
            records += [progress_record(p, take(p), clock_ms) for p in offsets]
    records += [progress_record(p, take(p), end_ms(num_messages)) for p in offsets]
    return records


def with_corrections(records: list[Record]) -> list[Record]:
    """The stream with all that version 2 adds: late likes, context tokens and session starts.

    After every fourth targets message whose newest target was not liked comes its correction.
    """
    found: list[Record] = []
    shift = dict.fromkeys({record.partition for record in records}, 0)
    num_targets_messages = 0
    for record in records:
        found.append(record._replace(offset=record.offset + shift[record.partition]))
        message = decode(record.value)
        if not isinstance(message, Sequence):
            continue
        num_targets_messages += 1
        tokens = message.tokens.copy()
        if len(tokens) > message.num_targets:
            tokens["item_id"][0] = context_id("country", str(message.user_id % 3))
            tokens["actions"][0] = CONTEXT_BIT
            tokens["actions"][1:] |= SESSION_START_BIT * (num_targets_messages % 2)
            value = record.value[: HEADER.itemsize] + tokens.tobytes()
            value += message.target_offsets.tobytes()
            found[-1] = found[-1]._replace(value=value)
        if num_targets_messages % 4 == 0 and not tokens["actions"][-1] & LIKE:
            tokens["actions"][-1] |= LIKE
            value = encode_correction(
                partition=message.partition, user_id=message.user_id, clock_ms=message.clock_ms,
                offset=10_000 + record.offset, lifetime_tokens=len(tokens) - 1,
                tokens=tokens.tobytes(), changed=LIKE,
            )  # fmt: skip
            shift[record.partition] += 1
            found.append(found[-1]._replace(offset=found[-1].offset + 1, value=value))
    return found


def as_version_1(record: Record) -> Record:
    """A targets or progress message as version 1 wrote it."""
    value = b"c728febb" + record.value[8:12] + bytes(4) + record.value[16:]
    is_progress = value[8:10] == b"\0\0"
    return record._replace(value=value[:-8] if is_progress else value)


def end_ms(num_messages: int) -> int:
    """The clock at the end of `recorded`."""
    return _START_MS + num_messages * STEP_MS


def by_partition(records: list[Record]) -> Iterator[list[Record]]:
    """The records of one partition after the other."""
    for partition in sorted({record.partition for record in records}):
        yield [record for record in records if record.partition == partition]
