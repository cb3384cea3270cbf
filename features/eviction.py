"""Which users leave: whoever was silent for the TTL, and the longest silent at the bound.

Users are written down, chunk by chunk, in the order in which the partition's clock saw them, once
per bucket of time. So the longest silent stand in the oldest chunks, nothing is scanned, and what
leaves when is a function of the log.
"""

from __future__ import annotations

import struct

from features.stores import Store
from features.tokens import NEVER_MS
from features.users import User

_BUCKETS_PER_TTL = 32
_MAX_CHUNK_USERS = 1024
_POSITION = struct.Struct("<qqqqq")


class TouchLog:
    """Users in the order of their last touch.

    A user is in the chunk that his `touch` names; older mentions of him count for nothing. Every
    chunk lies in one bucket of the clock and expires once the clock is `ttl_ms` past the bucket's
    end: a user leaves between `ttl_ms` and 33/32 of it after his last event.

    Args:
        store: the chunks, by number.
        ttl_ms: how long a user may be silent.
        max_users: the bound that decides how finely users leave at it.
    """

    def __init__(self, store: Store, ttl_ms: int, max_users: int) -> None:
        self.expires_ms = NEVER_MS
        self.bucket_end_ms = 0
        self.bucket_start = 0
        self._store = store
        self._ttl_ms = ttl_ms
        self._bucket_ms = max(1, ttl_ms // _BUCKETS_PER_TTL)
        self._chunk_users = max(1, min(_MAX_CHUNK_USERS, max_users // 16))
        self._oldest = self._newest = 0
        self._ids: list[int] = []
        self._saved_ids = 0

    def touch(self, user_id: int, user: User) -> None:
        """Note a user whose `touch` is before `bucket_start`: his newest mention is too old."""
        user.touch = self._newest
        self._ids.append(user_id)
        if self.expires_ms == NEVER_MS:
            self.expires_ms = self.bucket_end_ms + self._ttl_ms
        if len(self._ids) >= self._chunk_users:
            self._close()

    def begin_bucket(self, clock_ms: int) -> None:
        """Begin the bucket of a clock that has passed `bucket_end_ms`."""
        self._close()
        self.bucket_end_ms = (clock_ms // self._bucket_ms + 1) * self._bucket_ms
        self.bucket_start = self._newest

    def take_oldest(self) -> tuple[int, list[int]]:
        """The number of the oldest chunk and everyone mentioned in it, which is then forgotten."""
        if self._oldest == self._newest:
            self._close()
        number = self._oldest
        _, ids = self._read(number)
        self._store.remove([number])
        self._oldest += 1
        if self._oldest < self._newest:
            self.expires_ms, _ = self._read(self._oldest)
        else:
            self.expires_ms = self.bucket_end_ms + self._ttl_ms if self._ids else NEVER_MS
        return number, ids

    def save(self) -> bytes:
        """Write the open chunk; the rest of the log as bytes for `restore`."""
        if len(self._ids) != self._saved_ids:
            self._write()
        return _POSITION.pack(
            self._oldest, self._newest, self.bucket_start, self.bucket_end_ms, self.expires_ms
        )

    def restore(self, saved: bytes) -> None:
        """Become what `save` wrote down."""
        self._oldest, self._newest, self.bucket_start, self.bucket_end_ms, self.expires_ms = (
            _POSITION.unpack(saved)
        )
        _, self._ids = self._read(self._newest)
        self._saved_ids = len(self._ids)

    def _close(self) -> None:
        if self._ids:
            self._write()
            self._newest += 1
            self._ids = []
            self._saved_ids = 0

    def _write(self) -> None:
        expires_ms = self.bucket_end_ms + self._ttl_ms
        packed = struct.pack(f"<q{len(self._ids)}q", expires_ms, *self._ids)
        self._store.put({self._newest: packed})
        self._saved_ids = len(self._ids)

    def _read(self, number: int) -> tuple[int, list[int]]:
        packed = self._store.get(number)
        if packed is None:
            return NEVER_MS, []
        expires_ms, *ids = struct.unpack(f"<{len(packed) // 8}q", packed)
        return expires_ms, ids
