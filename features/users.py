"""What is kept of one user, in memory and, packed, in Flink's keyed state."""

from __future__ import annotations

import hashlib
import struct

import msgspec

from features.tokens import EVENT_STRUCT, NEVER_MS
from ingest.runtime.errors import FreshetError

# Earlier than any event: nothing was emitted.
BEFORE_ALL_MS = -1

_LAYOUT = 1
_HEADER = struct.Struct("<BqqqII")

_STRING_BIT = 1 << 63
_MASK = 2**64 - 1
# Odd, so multiplying by it modulo 2**64 loses nothing; it spreads small ids over all eight bytes.
_SPREAD = 0x9E3779B97F4A7C15


class User(msgspec.Struct, gc=False):
    """One user's part of a partition's state.

    `frontier_ms` is the newest event time emitted, `oldest_ms` the oldest pending one, `wake_ms`
    the value the horizon must pass for emission to be tried. `history` holds emitted TOKEN
    records, `event_keys` the newest event ids (8 bytes each, oldest first), `pending` EVENT_STRUCT
    records.
    """

    frontier_ms: int = BEFORE_ALL_MS
    oldest_ms: int = NEVER_MS
    wake_ms: int = NEVER_MS
    history: bytes = b""
    event_keys: bytes = b""
    pending: bytes = b""

    def remembers(self, event_key: bytes) -> bool:
        """Whether the event is among the user's newest."""
        keys = self.event_keys
        at = keys.find(event_key)
        while at % 8 and at >= 0:
            at = keys.find(event_key, at + 1)
        return at >= 0

    def pack(self) -> bytes:
        """The user as bytes; `unpack_user` is its inverse."""
        header = _HEADER.pack(
            _LAYOUT, self.frontier_ms, self.oldest_ms, self.wake_ms,
            len(self.history), len(self.event_keys),
        )  # fmt: skip
        return header + self.history + self.event_keys + self.pending


def unpack_user(packed: bytes) -> User:
    """Read a user packed by `User.pack`.

    Raises:
        FreshetError: another layout, or bytes that are not whole records.
    """
    if len(packed) < _HEADER.size or packed[0] != _LAYOUT:
        raise FreshetError(
            "user state of another layout",
            detail=f"{len(packed)} bytes start with {packed[:1]!r}, this build reads {_LAYOUT}.",
            hint="restore with the revision that wrote it, or replay the log from its start",
        )
    _, frontier_ms, oldest_ms, wake_ms, history_bytes, keys_bytes = _HEADER.unpack_from(packed)
    keys_at = _HEADER.size + history_bytes
    pending_at = keys_at + keys_bytes
    if (len(packed) - pending_at) % EVENT_STRUCT.size or pending_at > len(packed):
        raise FreshetError("user state torn", detail=f"{len(packed)} bytes.")
    return User(
        frontier_ms=frontier_ms,
        oldest_ms=oldest_ms,
        wake_ms=wake_ms,
        history=packed[_HEADER.size : keys_at],
        event_keys=packed[keys_at:pending_at],
        pending=packed[pending_at:],
    )


def event_key(event_id: int | str) -> bytes:
    """Eight bytes that stand for an event id.

    Integer ids are kept exactly, strings by a 63-bit hash: among 256 remembered ids a new one is
    taken for a duplicate by accident once in 3.6e16 events.
    """
    if type(event_id) is int:
        number = event_id
    else:
        digest = hashlib.blake2b(event_id.encode(), digest_size=8).digest()  # type: ignore[union-attr]
        number = int.from_bytes(digest, "little") | _STRING_BIT
    return (number * _SPREAD & _MASK).to_bytes(8, "little")
