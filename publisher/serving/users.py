"""Users' newest tokens, as the `sequences` topic tells them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import structlog

from features.sequences import TOKEN, CorruptSequence, Progress, decode
from ingest.runtime.kafka import Record
from publisher.serving import metrics

_log = structlog.get_logger()


@dataclass(frozen=True)
class UserState:
    """A user's newest tokens, packed TOKEN records in time order, and the message they came with."""

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
    the user longest without a message goes; reads do not count, so what is kept depends on the log
    alone. Reading and applying may happen in different threads.
    """

    def __init__(self, *, max_users: int, max_history: int) -> None:
        self._max_users = max_users
        self._max_history = max_history
        self._states: OrderedDict[int, UserState] = OrderedDict()
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
                self._put(message.user_id, UserState(record.partition, record.offset, packed))
        metrics.USERS.set(len(self._states))

    def _put(self, user_id: int, state: UserState) -> None:
        with self._lock:
            self._states[user_id] = state
            self._states.move_to_end(user_id)
            if len(self._states) > self._max_users:
                self._states.popitem(last=False)
                metrics.EVICTED_USERS.inc()
