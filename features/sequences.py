"""The sequence contract: the binary messages of the `sequences` topic.

A targets message is a user's history and, at its end, the tokens that have never been targets before:

    header 56 bytes | tokens, 32 bytes each: history ..., targets ... | source offsets, 8 bytes a target

A progress message closes a run of source offsets of one partition and carries its running counters:

    header 56 bytes | counters, 8 bytes each

Everything is little-endian, so a batch of messages becomes columns by joining bytes; no value is
decoded twice. The first eight bytes name the schema; another schema is refused, never guessed at.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import astuple, dataclass, fields
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from ingest.events import ACTION_BITS, LONG_WATCH_BIT
from ingest.runtime.errors import FreshetError

# What a token's `actions` bits mean: the events' vocabulary and what is derived from it.
TOKEN_BITS: dict[str, int] = ACTION_BITS | {"long_watch": LONG_WATCH_BIT}

TOKEN = np.dtype(
    [
        ("item_id", "<i8"),
        ("event_time_ms", "<i8"),
        ("price_minor", "<i8"),
        ("watch_ms", "<u4"),
        ("actions", "<u4"),
    ]
)
TOKEN_STRUCT = struct.Struct("<qqqII")

HEADER = np.dtype(
    [
        ("schema", "S8"),
        ("kind", "<u2"),
        ("partition", "<u2"),
        ("reserved", "<u4"),
        ("user_id", "<i8"),
        ("clock_ms", "<i8"),
        ("first_offset", "<i8"),
        ("last_offset", "<i8"),
        ("num_tokens", "<u4"),
        ("num_targets", "<u4"),
    ]
)
HEADER_STRUCT = struct.Struct("<8sHHIqqqqII")

# A change of layout or meaning is a new description, hence a new fingerprint.
_DESCRIPTION = f"freshet sequence 1 {HEADER.descr} {TOKEN.descr} offsets <i8 progress <i8"
SCHEMA = hashlib.sha256(_DESCRIPTION.encode()).hexdigest()[:8].encode()


class Kind(IntEnum):
    """What a message of the topic is."""

    PROGRESS = 0
    TARGETS = 1


class CorruptSequence(FreshetError):
    """Bytes that are no message of this schema."""


@dataclass(frozen=True)
class Counters:
    """Where a partition's events went, since its first offset.

    `events` counts every record but heartbeats; `pending` events are read but not yet emitted.
    """

    events: int = 0
    targets: int = 0
    corrections: int = 0
    folded: int = 0
    duplicates: int = 0
    late: int = 0
    dead: int = 0
    heartbeats: int = 0
    pending: int = 0

    def imbalance(self) -> int:
        """Events unaccounted for; the conservation law says 0.

        Example:
            >>> Counters(events=3, targets=1, folded=1, late=1).imbalance()
            0
        """
        accounted = self.targets + self.corrections + self.folded + self.duplicates
        return self.events - accounted - self.late - self.dead - self.pending

    def __add__(self, other: Counters) -> Counters:
        return Counters(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )


_COUNTERS_STRUCT = struct.Struct(f"<{len(fields(Counters))}q")


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """One user's history and new targets.

    `tokens` is a TOKEN array in time order, its last `num_targets` rows the targets;
    `target_offsets` holds the `events` offset that opened each target. `clock_ms` is the
    partition's clock at emission, `first_offset` and `last_offset` span the events folded in.
    """

    partition: int
    user_id: int
    clock_ms: int
    first_offset: int
    last_offset: int
    tokens: npt.NDArray[np.void]
    target_offsets: npt.NDArray[np.int64]

    @property
    def num_targets(self) -> int:
        """How many of the newest tokens are targets."""
        return len(self.target_offsets)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """All of `partition` before `next_offset` is in messages before this one.

    No later message of the partition has a smaller `clock_ms`.
    """

    partition: int
    clock_ms: int
    next_offset: int
    counters: Counters


def encode_targets(
    *,
    partition: int,
    user_id: int,
    clock_ms: int,
    first_offset: int,
    last_offset: int,
    tokens: bytes,
    target_offsets: list[int],
) -> bytes:
    """Pack a targets message; `tokens` are TOKEN records, the targets last."""
    num_targets = len(target_offsets)
    header = HEADER_STRUCT.pack(
        SCHEMA, Kind.TARGETS, partition, 0, user_id, clock_ms, first_offset, last_offset,
        len(tokens) // TOKEN.itemsize, num_targets,
    )  # fmt: skip
    return header + tokens + struct.pack(f"<{num_targets}q", *target_offsets)


def encode_progress(progress: Progress) -> bytes:
    """Pack a progress message."""
    header = HEADER_STRUCT.pack(
        SCHEMA, Kind.PROGRESS, progress.partition, 0, -1, progress.clock_ms, -1,
        progress.next_offset - 1, 0, 0,
    )  # fmt: skip
    return header + _COUNTERS_STRUCT.pack(*astuple(progress.counters))


def decode(value: bytes) -> Sequence | Progress:
    """Read one message.

    Raises:
        CorruptSequence: wrong schema, kind or length.

    Example:
        >>> decode(encode_progress(Progress(partition=1, clock_ms=5, next_offset=9, counters=Counters(events=9))))
        Progress(partition=1, clock_ms=5, next_offset=9, counters=Counters(events=9, targets=0, corrections=0, folded=0, duplicates=0, late=0, dead=0, heartbeats=0, pending=0))
    """
    kind = message_kind(value)
    _, _, partition, _, user_id, clock_ms, first, last, num_tokens, num_targets = (
        HEADER_STRUCT.unpack_from(value)
    )
    if kind is Kind.PROGRESS:
        counters = Counters(*_COUNTERS_STRUCT.unpack_from(value, HEADER.itemsize))
        return Progress(
            partition=partition, clock_ms=clock_ms, next_offset=last + 1, counters=counters
        )
    tokens = np.frombuffer(value, TOKEN, num_tokens, HEADER.itemsize)
    offsets_at = HEADER.itemsize + num_tokens * TOKEN.itemsize
    return Sequence(
        partition=partition,
        user_id=user_id,
        clock_ms=clock_ms,
        first_offset=first,
        last_offset=last,
        tokens=tokens,
        target_offsets=np.frombuffer(value, "<i8", num_targets, offsets_at),
    )


def message_kind(value: bytes) -> Kind:
    """What a message is, after checking its schema and its length against its header.

    Raises:
        CorruptSequence: wrong schema, kind or length.
    """
    if len(value) < HEADER.itemsize:
        raise CorruptSequence(
            "sequence message too short", detail=f"{len(value)} bytes, header {HEADER.itemsize}."
        )
    schema, kind, *_, num_tokens, num_targets = HEADER_STRUCT.unpack_from(value)
    if schema != SCHEMA:
        raise CorruptSequence(
            "unknown sequence schema",
            detail=f"The message has {schema!r}, this build reads {SCHEMA!r}.",
            hint="run the features job and the trainer from the same revision",
        )
    body = {
        Kind.PROGRESS: _COUNTERS_STRUCT.size,
        Kind.TARGETS: num_tokens * TOKEN.itemsize + num_targets * 8,
    }.get(kind)
    if body is None or len(value) != HEADER.itemsize + body or num_targets > num_tokens:
        raise CorruptSequence(
            "sequence message torn",
            detail=f"Kind {kind}, {num_tokens} tokens, {num_targets} targets, {len(value)} bytes.",
        )
    return Kind(kind)


def check_message(value: bytes, partition: int) -> Kind:
    """What a message is, after all checks: those of `message_kind`, its place and its ids.

    Args:
        value: the message.
        partition: the partition of `sequences` it lies in.

    Raises:
        CorruptSequence: wrong schema, kind or length, another partition's, or a negative id.
    """
    kind = message_kind(value)
    _, _, named, _, user_id, *_, num_tokens, _ = HEADER_STRUCT.unpack_from(value)
    if named != partition:
        raise CorruptSequence(
            "sequence message in another partition",
            detail=f"It says {named} and lies in {partition}.",
        )
    if kind is Kind.TARGETS:
        items = np.frombuffer(value, TOKEN, num_tokens, HEADER.itemsize)["item_id"]
        if user_id < 0 or bool((items < 0).any()):
            raise CorruptSequence(
                "negative id in a sequence",
                detail=f"User {user_id}, items {items[items < 0][:3]}.",
            )
    return kind


@dataclass(frozen=True, kw_only=True)
class SequenceColumns:
    """Many targets messages as columns.

    Shapes: `offsets` int64[B+1] over `tokens` TOKEN[T]; `num_targets`, `user_ids` int64[B].
    """

    user_ids: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    num_targets: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.void]


def decode_columns(values: list[bytes]) -> SequenceColumns:
    """Turn checked targets messages (see `message_kind`) into columns, one copy of the bytes in all."""
    headers = np.frombuffer(b"".join([value[: HEADER.itemsize] for value in values]), HEADER)
    num_tokens = headers["num_tokens"].astype(np.int64)
    ends = HEADER.itemsize + num_tokens * TOKEN.itemsize
    bodies = [
        value[HEADER.itemsize : end] for value, end in zip(values, ends.tolist(), strict=True)
    ]
    return SequenceColumns(
        user_ids=headers["user_id"].astype(np.int64),
        offsets=np.concatenate([[0], np.cumsum(num_tokens)]).astype(np.int64),
        num_targets=headers["num_targets"].astype(np.int64),
        tokens=np.frombuffer(b"".join(bodies), TOKEN),
    )
