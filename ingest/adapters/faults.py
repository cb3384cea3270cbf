"""What goes wrong in real streams, planted with exact counts: bad bytes, re-sends, late arrivals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np

from ingest.adapters.arrival import Ints
from ingest.events import Event, encode_record
from ingest.runtime.errors import ConfigError

DUPLICATE_LAG_MS = 4_000
"""A re-send arrives at most this much after the original."""

LATE_MIN_MS = 3_660_000
LATE_MAX_MS = 6 * 3_600_000

# Items nobody else touches: a late record can then be nothing but late.
_FIRST_LATE_ITEM = 10**15


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Records in the order of arrival: columns of user id, bytes, and arrival in event time."""

    users: list[int]
    values: list[bytes]
    arrival_ms: list[int]


@dataclass(frozen=True, kw_only=True)
class FaultCounts:
    """How many records of each fault are in the stream."""

    malformed: int
    duplicates: int
    late: int


def plant_faults(
    stream: Stream,
    *,
    name: str,
    num_malformed: int,
    num_duplicates: int,
    num_late: int,
    disorder_ms: int,
    rng: np.random.Generator,
) -> tuple[Stream, FaultCounts]:
    """Add faults to a stream of good events whose arrival is their event time.

    A duplicate is an exact re-send within DUPLICATE_LAG_MS. A late record follows directly on an
    on-time event of the same user and happened LATE_MIN_MS to LATE_MAX_MS before that one, so it
    is late for every partition count. A malformed record is in the name of the user whose event
    stands before it. On-time events arrive up to `disorder_ms` after they happened.

    Raises:
        ConfigError: more duplicates are wanted than there are events.
    """
    source, arrived_ms, originals = _arrivals(stream, num_duplicates, disorder_ms, rng)
    after_late = rng.choice(originals, num_late)
    after_bad = rng.integers(0, len(source), num_malformed)
    late = [
        _late_record(name, number, stream.users[row], stream.arrival_ms[row], rng)
        for number, row in enumerate(source[after_late].tolist())
    ]
    bad = [
        _BREAKS[number % len(_BREAKS)](stream.values[row])
        for number, row in enumerate(source[after_bad].tolist())
    ]
    kept = [stream.values[row] for row in source.tolist()]
    place = np.concatenate([np.arange(len(source)), after_late + 0.25, after_bad + 0.5])
    at = np.concatenate([np.arange(len(source)), after_late, after_bad])
    order = np.argsort(place, kind="stable")
    values = [*kept, *late, *bad]
    arrived = Stream(
        users=[stream.users[row] for row in source[at[order]].tolist()],
        values=[values[n] for n in order.tolist()],
        arrival_ms=arrived_ms[at[order]].tolist(),
    )
    counts = FaultCounts(malformed=num_malformed, duplicates=num_duplicates, late=num_late)
    return arrived, counts


def _arrivals(
    stream: Stream, num_duplicates: int, disorder_ms: int, rng: np.random.Generator
) -> tuple[Ints, Ints, Ints]:
    """Row of the stream and time of each arrival, and which arrivals are no re-sends."""
    size = len(stream.values)
    if num_duplicates > size:
        raise ConfigError("too many duplicates", detail=f"{num_duplicates} of {size} events.")
    arrival_ms = np.array(stream.arrival_ms) + rng.integers(0, disorder_ms + 1, size)
    again = rng.choice(size, num_duplicates, replace=False)
    again_ms = arrival_ms[again] + rng.integers(1, DUPLICATE_LAG_MS + 1, num_duplicates)
    source = np.concatenate([np.arange(size), again])
    arrived_ms = np.concatenate([arrival_ms, again_ms])
    # The original stands before its re-send, which arrives later.
    order = np.argsort(arrived_ms, kind="stable")
    return source[order], arrived_ms[order], np.flatnonzero(order < size)


def _late_record(
    name: str, number: int, user: int, after_ms: int, rng: np.random.Generator
) -> bytes:
    behind_ms = int(rng.integers(LATE_MIN_MS, LATE_MAX_MS))
    return encode_record(
        Event(
            event_id=f"{name}-late-{number}",
            user_id=user,
            item_id=_FIRST_LATE_ITEM + number,
            action="click",
            event_time_ms=max(0, after_ms - behind_ms),
        )
    )


def _with(**fields: object) -> Callable[[bytes], bytes]:
    return lambda raw: msgspec.json.encode({**msgspec.json.decode(raw), **fields})


def _without(name: str) -> Callable[[bytes], bytes]:
    def drop(raw: bytes) -> bytes:
        fields = msgspec.json.decode(raw)
        del fields[name]
        return msgspec.json.encode(fields)

    return drop


_BREAKS: tuple[Callable[[bytes], bytes], ...] = (
    lambda raw: raw[: len(raw) // 2],
    _with(user_id="seven"),
    _with(action="teleport"),
    lambda raw: raw.replace(b'"event_time_ms":', b'"event_time_ms":NaN,"was":'),
    _with(item_id=-3),
    lambda raw: raw.replace(b'"event_id":"', b'"event_id":"\xff\xfe'),
    lambda raw: b"\x1e" + raw,
    lambda raw: raw.replace(b'"event_id":"', b'"event_id":"\x1e'),
    lambda raw: b"",
    _without("item_id"),
    _with(event_time_ms=1.5),
    _with(user_id=2**63),
    lambda raw: b"[" + raw + b"]",
    lambda raw: b"null",
)
