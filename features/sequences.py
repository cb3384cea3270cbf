"""The sequence contract: the binary messages of the `sequences` topic.

A targets message is a user's history and, at its end, the tokens that have never been targets before:

    header 56 bytes | tokens, 32 bytes each: history ..., targets ... | source offsets, 8 bytes a target

A correction is one token that was a target before, told again because an event came late: the
history strictly before it, the token with all of its bits by now, the offset of the late event, and
which bits that event has set:

    header 56 bytes | tokens, 32 bytes each: history ..., the token | offset, 8 bytes | changed bits, 8 bytes

A progress message closes a run of source offsets of one partition and carries its running counters:

    header 56 bytes | counters, 8 bytes each

Everything is little-endian, so a batch of messages becomes columns by joining bytes; no value is
decoded twice. The first eight bytes name the schema. Version 2 is written, 1 and 2 are read; any
other is refused, never guessed at.

A context token is a slow feature of the user that took a new value: its bits are CONTEXT_BIT alone,
its id is `context_id`, and it is never a target. Its id is negative and an item's never is, so both
share one table and cannot be taken for one another.
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

# Bits no event names: a context token's only one, that of a session's first token, and that of a
# target which no later history holds (an impression, by policy).
CONTEXT_BIT = 1 << 25
SESSION_START_BIT = 1 << 26
TARGET_ONLY_BIT = 1 << 27

# What a token's `actions` bits mean: the events' vocabulary and what is derived from it.
TOKEN_BITS: dict[str, int] = ACTION_BITS | {
    "long_watch": LONG_WATCH_BIT,
    "context": CONTEXT_BIT,
    "session_start": SESSION_START_BIT,
    "target_only": TARGET_ONLY_BIT,
}

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
        ("lifetime_tokens", "<u4"),
        ("user_id", "<i8"),
        ("clock_ms", "<i8"),
        ("first_offset", "<i8"),
        ("last_offset", "<i8"),
        ("num_tokens", "<u4"),
        ("num_targets", "<u4"),
    ]
)
HEADER_STRUCT = struct.Struct("<8sHHIqqqqII")
CORRECTION_STRUCT = struct.Struct("<qQ")
_MAX_LIFETIME = 2**32 - 1

# A change of layout or meaning is a new description, hence a new fingerprint.
_DESCRIPTION = (
    f"freshet sequence 2 {HEADER.descr} {TOKEN.descr} offsets <i8 correction <qQ progress <i8 filtered "
    f"context {CONTEXT_BIT} session_start {SESSION_START_BIT} target_only {TARGET_ONLY_BIT}"
)
SCHEMA = hashlib.sha256(_DESCRIPTION.encode()).hexdigest()[:8].encode()

# Schemas this build reads. In version 1 `lifetime_tokens` is 0, nothing is filtered or corrected.
VERSIONS: dict[bytes, int] = {b"c728febb": 1, SCHEMA: 2}


class Kind(IntEnum):
    """What a message of the topic is."""

    PROGRESS = 0
    TARGETS = 1
    CORRECTION = 2


# Asking the enumeration costs as much as packing the header.
_TARGETS = int(Kind.TARGETS)


class CorruptSequence(FreshetError):
    """Bytes that are no message of a schema this build reads."""


@dataclass(frozen=True)
class Counters:
    """Where a partition's events went, since its first offset.

    `events` counts every record but heartbeats; `pending` events are read but not yet emitted,
    `filtered` ones are impressions that the policy leaves out.
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
    filtered: int = 0

    def imbalance(self) -> int:
        """Events unaccounted for; the conservation law says 0.

        Example:
            >>> Counters(events=4, targets=1, folded=1, late=1, filtered=1).imbalance()
            0
        """
        told = self.targets + self.corrections + self.folded
        left_out = self.duplicates + self.late + self.dead + self.filtered
        return self.events - told - left_out - self.pending

    def __add__(self, other: Counters) -> Counters:
        return Counters(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )


# By version: fields are only ever appended.
_COUNTERS_STRUCT = {1: struct.Struct("<9q"), 2: struct.Struct(f"<{len(fields(Counters))}q")}


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """One user's history and new targets.

    `tokens` is a TOKEN array in time order, its last `num_targets` rows the targets;
    `target_offsets` holds the `events` offset that opened each target. `clock_ms` is the
    partition's clock at emission, `first_offset` and `last_offset` span the events folded in.
    `lifetime_tokens` counts the tokens the user ever had before these targets, kept or not.
    """

    partition: int
    user_id: int
    clock_ms: int
    first_offset: int
    last_offset: int
    lifetime_tokens: int
    tokens: npt.NDArray[np.void]
    target_offsets: npt.NDArray[np.int64]

    @property
    def num_targets(self) -> int:
        """How many of the newest tokens are targets."""
        return len(self.target_offsets)


@dataclass(frozen=True, kw_only=True)
class Correction:
    """A token that was a target before, with the bits that a late event added to it.

    `tokens` is a TOKEN array in time order: the history strictly before the token, then the token;
    (item_id, event_time_ms) name it among the user's. `offset` is the late event's, `changed` the
    bits newly set: 0 where only watch time or price changed. The rest is as in `Sequence`.
    """

    partition: int
    user_id: int
    clock_ms: int
    offset: int
    lifetime_tokens: int
    tokens: npt.NDArray[np.void]
    changed: int


@dataclass(frozen=True, kw_only=True)
class Progress:
    """All of `partition` before `next_offset` is in messages before this one.

    No later message of the partition has a smaller `clock_ms`.
    """

    partition: int
    clock_ms: int
    next_offset: int
    counters: Counters


def context_id(feature: str, value: str) -> int:
    """The `item_id` of the context token that says `feature` took `value`: stable, at most -2.

    62 bits of a hash, so two contexts share an id about never; -1 means no id to the id map.

    Example:
        >>> context_id("country", "DE") == context_id("country", "DE") != context_id("city", "DE")
        True
    """
    # The length keeps ("a", "bc") and ("ab", "c") apart.
    named = b"%d %s %s" % (len(feature.encode()), feature.encode(), value.encode())
    hashed = int.from_bytes(hashlib.blake2b(named, digest_size=8).digest()) >> 2
    return -2 - hashed


def encode_targets(
    *,
    partition: int,
    user_id: int,
    clock_ms: int,
    first_offset: int,
    last_offset: int,
    lifetime_tokens: int,
    tokens: bytes,
    target_offsets: list[int],
) -> bytes:
    """Pack a targets message; `tokens` are TOKEN records, the targets last.

    `lifetime_tokens` stops at its field's largest value.
    """
    num_targets = len(target_offsets)
    header = HEADER_STRUCT.pack(
        SCHEMA, _TARGETS, partition, min(lifetime_tokens, _MAX_LIFETIME), user_id, clock_ms,
        first_offset, last_offset, len(tokens) // TOKEN_STRUCT.size, num_targets,
    )  # fmt: skip
    return b"".join((header, tokens, struct.pack(f"<{num_targets}q", *target_offsets)))


def encode_correction(
    *,
    partition: int,
    user_id: int,
    clock_ms: int,
    offset: int,
    lifetime_tokens: int,
    tokens: bytes,
    changed: int,
) -> bytes:
    """Pack a correction; `tokens` are TOKEN records, the corrected one last, with its new bits."""
    header = HEADER_STRUCT.pack(
        SCHEMA, Kind.CORRECTION, partition, min(lifetime_tokens, _MAX_LIFETIME), user_id, clock_ms,
        offset, offset, len(tokens) // TOKEN.itemsize, 1,
    )  # fmt: skip
    return header + tokens + CORRECTION_STRUCT.pack(offset, changed)


def encode_progress(progress: Progress) -> bytes:
    """Pack a progress message."""
    header = HEADER_STRUCT.pack(
        SCHEMA, Kind.PROGRESS, progress.partition, 0, -1, progress.clock_ms, -1,
        progress.next_offset - 1, 0, 0,
    )  # fmt: skip
    return header + _COUNTERS_STRUCT[VERSIONS[SCHEMA]].pack(*astuple(progress.counters))


def decode(value: bytes) -> Sequence | Correction | Progress:
    """Read one message of any version.

    Raises:
        CorruptSequence: unknown schema, wrong kind or length.

    Example:
        >>> decode(encode_progress(Progress(partition=1, clock_ms=5, next_offset=9, counters=Counters(events=9)))).next_offset
        9
    """
    kind = message_kind(value)
    schema, _, partition, lifetime_tokens, user_id, clock_ms, first, last, num_tokens, num_targets = (
        HEADER_STRUCT.unpack_from(value)
    )  # fmt: skip
    if kind is Kind.PROGRESS:
        counters = Counters(*_COUNTERS_STRUCT[VERSIONS[schema]].unpack_from(value, HEADER.itemsize))
        return Progress(
            partition=partition, clock_ms=clock_ms, next_offset=last + 1, counters=counters
        )
    tokens = np.frombuffer(value, TOKEN, num_tokens, HEADER.itemsize)
    end = HEADER.itemsize + num_tokens * TOKEN.itemsize
    if kind is Kind.CORRECTION:
        offset, changed = CORRECTION_STRUCT.unpack_from(value, end)
        return Correction(
            partition=partition,
            user_id=user_id,
            clock_ms=clock_ms,
            offset=offset,
            lifetime_tokens=lifetime_tokens,
            tokens=tokens,
            changed=changed,
        )
    return Sequence(
        partition=partition,
        user_id=user_id,
        clock_ms=clock_ms,
        first_offset=first,
        last_offset=last,
        lifetime_tokens=lifetime_tokens,
        tokens=tokens,
        target_offsets=np.frombuffer(value, "<i8", num_targets, end),
    )


def message_kind(value: bytes) -> Kind:
    """What a message is, after checking its schema and its length against its header.

    Raises:
        CorruptSequence: unknown schema, wrong kind or length.
    """
    if len(value) < HEADER.itemsize:
        raise CorruptSequence(
            "sequence message too short", detail=f"{len(value)} bytes, header {HEADER.itemsize}."
        )
    schema, kind, *_, num_tokens, num_targets = HEADER_STRUCT.unpack_from(value)
    version = VERSIONS.get(schema)
    if version is None:
        known = ", ".join(f"{name!r} (version {number})" for name, number in VERSIONS.items())
        raise CorruptSequence(
            "unknown sequence schema",
            detail=f"The message has {schema!r}, this build reads {known}.",
            hint="run the features job and the trainer from the same revision",
        )
    body: int | None = None
    if kind == Kind.TARGETS:
        body = num_tokens * TOKEN.itemsize + num_targets * 8
    elif kind == Kind.PROGRESS:
        body = _COUNTERS_STRUCT[version].size
    elif kind == Kind.CORRECTION and version > 1 and num_targets == 1:
        body = num_tokens * TOKEN.itemsize + CORRECTION_STRUCT.size
    if len(value) - HEADER.itemsize != body or num_targets > num_tokens:
        raise CorruptSequence(
            "sequence message torn",
            detail=f"Kind {kind}, {num_tokens} tokens, {num_targets} targets, {len(value)} bytes.",
        )
    return Kind(kind)
