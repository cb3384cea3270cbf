"""Users' newest tokens, as the `sequences` topic tells them."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import structlog

from features.sequence_reader import check_message
from features.sequences import TOKEN, CorruptSequence, Progress, decode
from ingest.runtime.kafka import Record
from publisher.serving import metrics

_log = structlog.get_logger()


@dataclass(frozen=True)
class UserState:
    """A user's newest tokens, packed TOKEN records in time order, and the message they came with.

    `clock_ms`, `partition` and `offset` are the message's; they order all messages.
    """

    clock_ms: int
    partition: int
    offset: int
    packed: bytes

    @property
    def tokens(self) -> npt.NDArray[np.void]:
        """TOKEN[T]."""
        return np.frombuffer(self.packed, TOKEN)


class UserStates:
    """The newest state of at most `max_users` users, each at most `max_history` tokens.

    A message carries its user's history and targets, so it replaces the state whole. At the limit
    the user goes whose message has the least (clock_ms, partition, offset), whatever was read and in
    which order the partitions came: what is kept depends on the log alone. Reading and applying may
    happen in different threads.
    """

    def __init__(self, *, max_users: int, max_history: int) -> None:
        self._max_users = max_users
        self._max_history = max_history
        self._states: dict[int, UserState] = {}
        # Each partition's users, least recent message first.
        self._users: defaultdict[int, OrderedDict[int, None]] = defaultdict(OrderedDict)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Users kept."""
        return len(self._states)

    def get(self, user_id: int) -> UserState | None:
        """The user's state; None when no message of his is kept."""
        with self._lock:
            return self._states.get(user_id)

    def apply(self, records: Iterable[Record]) -> None:
        """Take records of `sequences` in the order of their partitions; count and skip corrupt ones."""
        for record in records:
            try:
                check_message(record.value, record.partition)
                message = decode(record.value)
            except CorruptSequence as error:
                metrics.CORRUPT_MESSAGES.inc()
                _log.warning(
                    "corrupt message skipped",
                    source=f"sequences/{record.partition}/{record.offset}",
                    error=str(error),
                )
                continue
            if isinstance(message, Progress):
                metrics.CLOCK.labels(record.partition).set(message.clock_ms / 1000)
            else:
                packed = message.tokens[-self._max_history :].tobytes()
                state = UserState(message.clock_ms, record.partition, record.offset, packed)
                self._put(message.user_id, state)
        metrics.USERS.set(len(self._states))

    def _put(self, user_id: int, state: UserState) -> None:
        with self._lock:
            old = self._states.get(user_id)
            if old is not None:
                del self._users[old.partition][user_id]
            self._states[user_id] = state
            self._users[state.partition][user_id] = None
            if len(self._states) > self._max_users:
                self._evict()

    def _evict(self) -> None:
        oldest = [next(iter(users)) for users in self._users.values() if users]
        user_id = min(oldest, key=lambda user: self._place(self._states[user]))
        del self._users[self._states.pop(user_id).partition][user_id]
        metrics.EVICTED_USERS.inc()

    @staticmethod
    def _place(state: UserState) -> tuple[int, int, int]:
        return state.clock_ms, state.partition, state.offset
