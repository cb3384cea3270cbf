"""Records broken in every way a stream can break them: seeded, and quick enough for millions."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from ingest.adapters.synthetic import SyntheticConfig, generate
from ingest.events import MAX_EVENT_BYTES, Event, Heartbeat, encode_record

_PIECES = (
    b"null", b"true", b"-1", b"1.5", b"1e999", b"-0", b"9223372036854775808", b"18446744073709551616",
    b"9" * 400, b'""', b'"7"', b'"\\ud800"', b'"\\u0000"', b"[]", b"{}", b"[" * 2_000, b'{"a":' * 500,
    b"\x00", b"\xff", b"\xc3\x28", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"NaN", b"Infinity", b"\n", b"//",
    b'"action":"return"', b'"heartbeat_ms":5', b'"event_time_ms":4102444800001', b",", b'"', b"\\",
)  # fmt: skip
_EVENTS_PER_HEARTBEAT = 100
_SENT_AGAIN = 0.05

Mutation = Callable[[random.Random, bytes, bytes], bytes]


def _flip(rng: random.Random, raw: bytes, _: bytes) -> bytes:
    at = rng.randrange(len(raw))
    return raw[:at] + bytes((rng.randrange(256),)) + raw[at + 1 :]


def _cut_out(rng: random.Random, raw: bytes, _: bytes) -> bytes:
    at = rng.randrange(len(raw))
    return raw[:at] + raw[at + 1 + rng.randrange(12) :]


def _cut_off(rng: random.Random, raw: bytes, _: bytes) -> bytes:
    return raw[: rng.randrange(len(raw))]


def _insert(rng: random.Random, raw: bytes, _: bytes) -> bytes:
    at = rng.randrange(len(raw) + 1)
    return raw[:at] + rng.choice(_PIECES) + raw[at:]


def _replace_value(rng: random.Random, raw: bytes, _: bytes) -> bytes:
    """Another value behind one of the colons."""
    colons = [at for at, byte in enumerate(raw) if byte == ord(":")]
    if not colons:
        return raw
    at = rng.choice(colons) + 1
    end = min((found for sign in (b",", b"}") if (found := raw.find(sign, at)) > 0), default=at)
    return raw[:at] + rng.choice(_PIECES) + raw[end:]


def _splice(rng: random.Random, raw: bytes, other: bytes) -> bytes:
    return raw[: rng.randrange(len(raw))] + other[rng.randrange(len(other)) :]


def _rename(rng: random.Random, raw: bytes, _: bytes) -> bytes:
    return raw.replace(rng.choice((b"_id", b"action", b"event", b"time", b"user")), b"x", 1)


def _repeat(rng: random.Random, raw: bytes, _: bytes) -> bytes:
    return raw * rng.choice((2, 3))


def _again(_rng: random.Random, raw: bytes, _: bytes) -> bytes:
    return raw


_MUTATIONS: tuple[Mutation, ...] = (
    _flip, _cut_out, _cut_off, _insert, _replace_value, _splice, _rename, _repeat, _again,
)  # fmt: skip


def seeds(num_impressions: int = 1_000) -> list[tuple[int, bytes]]:
    """Good records to break, each with when it happens: a synthetic stream, heartbeats in between."""
    log, _ = generate(SyntheticConfig(num_impressions=num_impressions))
    (rows,) = log.read(0, len(log), rows_per_run=len(log))
    full = Event(
        event_id="e", user_id=1, item_id=2, action="watch", event_time_ms=rows.times_ms[0],
        watch_ms=3, duration_ms=4, price_minor=5, currency="EUR", request_id="r",
        context={"a": {"b": [1, 2.5, None]}},
    )  # fmt: skip
    good = [(rows.times_ms[0], encode_record(full))]
    for number, (time_ms, raw) in enumerate(zip(rows.times_ms, rows.values, strict=True)):
        if number % _EVENTS_PER_HEARTBEAT == 0:
            good.append((time_ms, encode_record(Heartbeat(heartbeat_ms=time_ms))))
        good.append((time_ms, raw))
    return good


def mutated(
    good: list[tuple[int, bytes]], num_records: int, seed: int
) -> Iterator[tuple[int, bytes]]:
    """So many records in the order of the seeds, each broken up to three times, some not at all.

    Yields when the good record happened, and the bytes. Some stand for an earlier record instead.
    """
    rng = random.Random(seed)
    for number in range(num_records):
        time_ms, raw = good[number % len(good)]
        if rng.random() < _SENT_AGAIN:
            raw = good[(number - rng.randrange(300)) % len(good)][1]
        for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
            if raw:
                raw = rng.choice(_MUTATIONS)(rng, raw, good[rng.randrange(len(good))][1])
        # One record in a while is too large to be read at all.
        yield time_ms, raw if number % 50_021 else raw.ljust(MAX_EVENT_BYTES + 1)
