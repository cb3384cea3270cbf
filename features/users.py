"""What is kept of one user, in memory and, packed, in Flink's keyed state."""

from __future__ import annotations

import struct
from hashlib import blake2b

import lz4.block
import msgspec

from features.tokens import NEVER_MS
from ingest.runtime.errors import FreshetError

# Earlier than any event: nothing was emitted.
BEFORE_ALL_MS = -1

_LAYOUT = 3
_LAYOUT_BYTE = bytes([_LAYOUT])
_USER = struct.Struct("<qqqqIIII")
_WAITING = struct.Struct("<BqqI")

_MASK = 2**64 - 1
# Odd, so multiplying by it modulo 2**64 loses nothing; it spreads small ids over all eight bytes.
_SPREAD = 0x9E3779B97F4A7C15


class User(msgspec.Struct, gc=False):
    """What stays of a user once his events are emitted.

    `frontier_ms` is the newest event time emitted, `active_ms` the newest in a target, `touch` the
    chunk of `features.eviction` he was last seen in, `lifetime_tokens` how many tokens ever entered
    his history. `history` holds TOKEN records, `event_keys` the newest event ids (8 bytes each,
    oldest first), `amendments` and `context` the records of `features.amendments` and
    `features.context`.
    """

    frontier_ms: int = BEFORE_ALL_MS
    active_ms: int = BEFORE_ALL_MS
    touch: int = -1
    lifetime_tokens: int = 0
    history: bytes = b""
    event_keys: bytes = b""
    amendments: bytes = b""
    context: bytes = b""

    def remembers(self, event_key: bytes) -> bool:
        """Whether the event is among the user's newest."""
        keys = self.event_keys
        at = keys.find(event_key)
        while at % 8 and at >= 0:
            at = keys.find(event_key, at + 1)
        return at >= 0

    def pack(self) -> bytes:
        """The user as bytes, compressed; `unpack_user` is its inverse."""
        fixed = _USER.pack(
            self.frontier_ms, self.active_ms, self.touch, self.lifetime_tokens,
            len(self.history), len(self.event_keys), len(self.amendments), len(self.context),
        )  # fmt: skip
        # Behind the tokens whose times it repeats: most users are small, and half of it compresses.
        parts = (self.history, self.event_keys, self.amendments, self.context, fixed)
        return _LAYOUT_BYTE + bytes(lz4.block.compress(b"".join(parts)))


class Waiting(msgspec.Struct, gc=False):
    """A user's events that are not emitted yet.

    `oldest_ms` is the oldest of them, `wake_ms` the value the horizon must pass for emission to be
    tried. `pending` holds EVENT_STRUCT records, `observed` those of `features.context`.
    """

    oldest_ms: int = NEVER_MS
    wake_ms: int = NEVER_MS
    pending: bytes = b""
    observed: bytes = b""

    def pack(self) -> bytes:
        """The events as bytes; `unpack_waiting` is its inverse."""
        header = _WAITING.pack(_LAYOUT, self.oldest_ms, self.wake_ms, len(self.pending))
        return header + self.pending + self.observed


def unpack_user(packed: bytes) -> User:
    """Read a user packed by `User.pack`.

    Raises:
        FreshetError: another layout, or bytes that are not whole.
    """
    _require_layout(packed, 1)
    try:
        body = lz4.block.decompress(packed[1:])
        fixed = _USER.unpack(body[-_USER.size :])
    except (lz4.block.LZ4BlockError, MemoryError, ValueError, struct.error) as error:
        raise FreshetError("user state torn", detail=f"{len(packed)} bytes: {error}") from None
    frontier_ms, active_ms, touch, lifetime_tokens, *sizes = fixed
    if len(body) != sum(sizes) + _USER.size:
        raise FreshetError("user state torn", detail=f"{len(body)} bytes, {sum(sizes)} packed.")
    keys_at = sizes[0]
    amendments_at = keys_at + sizes[1]
    context_at = amendments_at + sizes[2]
    return User(
        frontier_ms=frontier_ms,
        active_ms=active_ms,
        touch=touch,
        lifetime_tokens=lifetime_tokens,
        history=body[:keys_at],
        event_keys=body[keys_at:amendments_at],
        amendments=body[amendments_at:context_at],
        context=body[context_at : -_USER.size],
    )


def unpack_waiting(packed: bytes) -> Waiting:
    """Read what `Waiting.pack` packed.

    Raises:
        FreshetError: another layout, or bytes that are not whole.
    """
    _require_layout(packed, _WAITING.size)
    _, oldest_ms, wake_ms, pending_bytes = _WAITING.unpack_from(packed)
    observed_at = _WAITING.size + pending_bytes
    if observed_at > len(packed):
        raise FreshetError("user state torn", detail=f"{len(packed)} bytes.")
    return Waiting(
        oldest_ms=oldest_ms,
        wake_ms=wake_ms,
        pending=packed[_WAITING.size : observed_at],
        observed=packed[observed_at:],
    )


def _require_layout(packed: bytes, header_bytes: int) -> None:
    if len(packed) < header_bytes or packed[0] != _LAYOUT:
        raise FreshetError(
            "user state of another layout",
            detail=f"{len(packed)} bytes start with {packed[:1]!r}, this build reads {_LAYOUT}.",
            hint="restore with the revision that wrote it, or replay the log from its start",
        )


def event_key(event_id: int | str) -> bytes:
    """Eight bytes that stand for an event id.

    Integer ids are kept exactly, strings by a 64-bit hash: among 256 remembered ids a new one is
    taken for a duplicate by accident once in 7.2e16 events.
    """
    if type(event_id) is str:
        return blake2b(event_id.encode(), digest_size=8).digest()
    return (event_id * _SPREAD & _MASK).to_bytes(8, "little")  # type: ignore[operator]
