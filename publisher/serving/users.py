"""Users' newest tokens, as the `sequences` topic tells them."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import structlog

from features.sequence_reader import check_message
from features.sequences import (
    TARGET_ONLY_BIT,
    TOKEN,
    Correction,
    CorruptSequence,
    Progress,
    Sequence,
    decode,
)
from ingest.runtime.kafka import Record
from publisher.serving import metrics

_log = structlog.get_logger()


@dataclass(frozen=True)
class UserState:
    """A user's newest tokens, packed TOKEN records in time order.

    `clock_ms`, `partition` and `offset` are the newest targets message's; they order all users.
    `newest_offset` is that of the newest message that changed the tokens, a correction's too.
    `corrected` holds, by item and event time, corrected tokens that no targets message has shown yet.
    """

    clock_ms: int
    partition: int
    offset: int
    newest_offset: int
    packed: bytes
    corrected: dict[tuple[int, int], npt.NDArray[np.void]] = field(default_factory=dict)

    @property
    def tokens(self) -> npt.NDArray[np.void]:
        """TOKEN[T]."""
        return np.frombuffer(self.packed, TOKEN)


class UserStates:
    """The newest state of at most `max_users` users, each at most `max_history` tokens.

    A targets message carries its user's history and targets, so it replaces the state whole; a
    correction replaces the one token it names, where that is kept, and again in later messages whose
    targets opened too early to see it. At the limit the user goes whose
    targets message has the least (clock_ms, partition, offset), whatever was read and in
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
            elif isinstance(message, Correction):
                known = self._correct(message, record.offset)
                metrics.CORRECTIONS.labels("applied" if known else "not_kept").inc()
            else:
                self._put(message.user_id, self._state(message, record))
        metrics.USERS.set(len(self._states))

    def _state(self, message: Sequence, record: Record) -> UserState:
        lasting = message.tokens["actions"] & TARGET_ONLY_BIT == 0
        tokens = message.tokens[lasting][-self._max_history :]
        old = self._states.get(message.user_id)
        corrected = _correct_again(tokens, old.corrected) if old is not None else {}
        return UserState(
            clock_ms=message.clock_ms,
            partition=record.partition,
            offset=record.offset,
            newest_offset=record.offset,
            packed=tokens.tobytes(),
            corrected=corrected,
        )

    def _correct(self, message: Correction, offset: int) -> bool:
        """Replace the token a correction names; False where it is not kept.

        The user's place among all stays: it would else depend on whether he was kept when the
        correction came, hence on how the partitions interleave.
        """
        with self._lock:
            state = self._states.get(message.user_id)
            if state is None:
                return False
            tokens, corrected = state.tokens.copy(), message.tokens[-1:].copy()
            at = _find(tokens, corrected)
            if not len(at):
                return False
            tokens[at] = corrected
            self._states[message.user_id] = replace(
                state,
                newest_offset=offset,
                packed=tokens.tobytes(),
                corrected=state.corrected | {_name(corrected): corrected},
            )
            return True

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


def _name(token: npt.NDArray[np.void]) -> tuple[int, int]:
    return int(token["item_id"][0]), int(token["event_time_ms"][0])


def _find(tokens: npt.NDArray[np.void], token: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
    """The row of `tokens` that is the same item at the same time as `token`, TOKEN[1]; or none."""
    same = tokens["item_id"] == token["item_id"]
    return np.flatnonzero(same & (tokens["event_time_ms"] == token["event_time_ms"]))


def _correct_again(
    tokens: npt.NDArray[np.void], corrected: dict[tuple[int, int], npt.NDArray[np.void]]
) -> dict[tuple[int, int], npt.NDArray[np.void]]:
    """Write corrections into a newer history, in place; those it did not show by itself.

    A message's history is what its targets may see, and they may have opened before the late event.
    """
    unseen = {}
    for name, token in corrected.items():
        at = _find(tokens, token)
        if len(at) and (token["actions"] & ~tokens["actions"][at]).any():
            told = token.copy()
            told["actions"] |= tokens["actions"][at]
            told["watch_ms"] = np.maximum(told["watch_ms"], tokens["watch_ms"][at])
            tokens[at] = told
            unseen[name] = token
    return unseen
