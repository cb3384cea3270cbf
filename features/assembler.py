"""The state machine of one partition: its log in, messages out, nothing else looked at.

No Flink here. What comes out depends on the records and their order alone: not on how they are cut
into batches, when they are read, or how often the machine was saved and restored between two.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from heapq import heapify, heappop, heappush

import msgspec

from features.config import FeaturesConfig
from features.emission import cuts, split
from features.sequences import TOKEN, Counters, Progress, encode_targets
from features.tokens import (
    EVENT_STRUCT,
    NEVER_MS,
    PendingEvent,
    Token,
    join_events,
    pack_event,
    sort_events,
)
from features.users import BEFORE_ALL_MS, User, event_key, unpack_user
from ingest.events import (
    MAX_EVENT_BYTES,
    Event,
    Heartbeat,
    InvalidEvent,
    decode_record,
    partition_key,
)
from ingest.runtime.errors import FreshetError
from ingest.runtime.partitions import partition_of
from ingest.runtime.topics import EVENTS, EVENTS_DEAD, EVENTS_LATE, SEQUENCES

_META_LAYOUT = 1
_META = struct.Struct("<BIIqqqqqqqqqq")
_MAX_DETAIL = 500


class Output(msgspec.Struct, frozen=True, gc=False):
    """One record to write: topic, key, bytes, and its headers where it has any."""

    topic: str
    key: str
    value: bytes
    headers: dict[str, str] | None = None


class PartitionAssembler:
    """Turns one partition's records, in log order, into targets messages, late and dead records.

    `clock_ms` is the running maximum of event times and heartbeats, the horizon the clock less
    `bound_ms`. Conservation holds after every record: `progress().counters.imbalance() == 0`.

    Args:
        config: the semantics.
        partition: the partition of `events` whose log this reads.
        num_partitions: of `events`; a user whose key belongs elsewhere is refused.
    """

    def __init__(self, config: FeaturesConfig, partition: int, num_partitions: int) -> None:
        self.config = config
        self.partition = partition
        self.num_partitions = num_partitions
        self.clock_ms = BEFORE_ALL_MS
        self.next_offset = 0
        self.forced = 0
        self._horizon_ms = self.clock_ms - config.bound_ms
        self._users: dict[int, User] = {}
        self._wakes: list[tuple[int, int]] = []
        self._changed: set[int] = set()
        self._events = self._targets = self._folded = self._duplicates = 0
        self._late = self._dead = self._heartbeats = self._pending = 0

    @property
    def num_users(self) -> int:
        """How many users' state is held."""
        return len(self._users)

    def process(self, offset: int, arrival_ms: int, raw: bytes) -> list[Output]:
        """Take the log's next record and return what it lets out, in order.

        Args:
            offset: of the record; gaps are allowed.
            arrival_ms: when the broker appended it.
            raw: its value; a record without one is empty bytes.

        Raises:
            FreshetError: the offset is not past the last one.
        """
        if offset < self.next_offset:
            raise FreshetError(
                "records out of order",
                detail=f"events/{self.partition}: offset {offset} came, {self.next_offset} or "
                "later was due.",
                hint="a restart from the last checkpoint reads them again, in order",
                retriable=True,
            )
        self.next_offset = offset + 1
        outputs: list[Output] = []
        try:
            record = decode_record(raw)
        except InvalidEvent as error:
            self._reject(offset, raw, error.reason, error.detail, outputs)
            return outputs
        if type(record) is Event:
            self._take(record, offset, arrival_ms, raw, outputs)
        elif type(record) is Heartbeat:
            self._beat(record.heartbeat_ms, offset, arrival_ms, raw, outputs)
        return outputs

    def progress(self) -> Progress:
        """Where the partition stands after the last record."""
        return Progress(
            partition=self.partition,
            clock_ms=self.clock_ms,
            next_offset=self.next_offset,
            counters=Counters(
                events=self._events,
                targets=self._targets,
                folded=self._folded,
                duplicates=self._duplicates,
                late=self._late,
                dead=self._dead,
                heartbeats=self._heartbeats,
                pending=self._pending,
            ),
        )

    def take_changes(self) -> dict[int, bytes]:
        """The packed state of every user changed since the last call."""
        users = self._users
        changes = {user_id: users[user_id].pack() for user_id in self._changed}
        self._changed.clear()
        return changes

    def pack_meta(self) -> bytes:
        """The packed state that belongs to no user."""
        return _META.pack(
            _META_LAYOUT, self.partition, self.num_partitions, self.clock_ms, self.next_offset,
            self._events, self._targets, self._folded, self._duplicates, self._late, self._dead,
            self._heartbeats, self.forced,
        )  # fmt: skip

    def restore(self, meta: bytes, users: Iterable[tuple[int, bytes]]) -> None:
        """Become what `pack_meta` and the newest packed form of every user say.

        Raises:
            FreshetError: state of another layout, partition or partition count.
        """
        found = _META.unpack(meta)[:3] if len(meta) == _META.size else (None, None, None)
        wanted = (_META_LAYOUT, self.partition, self.num_partitions)
        if found != wanted:
            raise FreshetError(
                "partition state does not fit",
                detail=f"It has (layout, partition, partitions) {found}, the job {wanted}.",
                hint="the partition count is part of the semantics: replay into new topics",
            )
        (
            self.clock_ms, self.next_offset, self._events, self._targets, self._folded,
            self._duplicates, self._late, self._dead, self._heartbeats, self.forced,
        ) = _META.unpack(meta)[3:]  # fmt: skip
        self._horizon_ms = self.clock_ms - self.config.bound_ms
        self._users = {user_id: unpack_user(packed) for user_id, packed in users}
        waiting = [(user_id, user) for user_id, user in self._users.items() if user.pending]
        self._pending = sum(len(user.pending) for _, user in waiting) // EVENT_STRUCT.size
        self._wakes = [(user.wake_ms, user_id) for user_id, user in waiting]
        heapify(self._wakes)

    def _take(
        self,
        event: Event,
        offset: int,
        arrival_ms: int,
        raw: bytes,
        outputs: list[Output],
    ) -> None:
        user_id, time_ms = event.user_id, event.event_time_ms
        user = self._users.get(user_id)
        if user is None and self._is_foreign(user_id):
            detail = f"User {user_id} does not belong to partition {self.partition}."
            return self._reject(offset, raw, "wrong_partition", detail, outputs)
        if time_ms > self.clock_ms:
            if time_ms > arrival_ms + self.config.future_bound_ms:
                detail = f"Event time {time_ms}, arrived {arrival_ms}."
                return self._reject(offset, raw, "future", detail, outputs)
            self._advance(time_ms, outputs)
        self._events += 1
        if user is None:
            user = self._users[user_id] = User()
        key = event_key(event.event_id)
        if user.remembers(key):
            self._duplicates += 1
            return None
        self._changed.add(user_id)
        user.event_keys = _newest(user.event_keys + key, self.config.remembered_ids * 8)
        if time_ms < self._horizon_ms or time_ms <= user.frontier_ms:
            return self._refuse_late(user, event, offset, raw, outputs)
        user.pending += pack_event(event, offset)
        self._pending += 1
        return self._wait(user_id, user, time_ms, outputs)

    def _wait(self, user_id: int, user: User, time_ms: int, outputs: list[Output]) -> None:
        """Set when a user with a new pending event is looked at again; look now if he has many."""
        config = self.config
        user.oldest_ms = min(user.oldest_ms, time_ms)
        overdue = user.oldest_ms + config.emit_after_ms < self._horizon_ms
        wake_ms = time_ms + (config.join_window_ms if overdue else config.emit_after_ms)
        if wake_ms < user.wake_ms:
            user.wake_ms = wake_ms
            heappush(self._wakes, (wake_ms, user_id))
        num_pending = len(user.pending) // EVENT_STRUCT.size
        full = num_pending >= config.max_pending
        if full or num_pending % config.max_targets == 0:
            if user.oldest_ms + config.join_window_ms < self._horizon_ms:
                self._emit(user_id, user, outputs)
                full = len(user.pending) // EVENT_STRUCT.size >= config.max_pending
            if full:
                self.forced += 1
                self._emit(user_id, user, outputs, forced=True)

    def _beat(
        self,
        time_ms: int,
        offset: int,
        arrival_ms: int,
        raw: bytes,
        outputs: list[Output],
    ) -> None:
        if time_ms > self.clock_ms:
            if time_ms > arrival_ms + self.config.future_bound_ms:
                detail = f"Heartbeat {time_ms}, arrived {arrival_ms}."
                return self._reject(offset, raw, "future", detail, outputs)
            self._advance(time_ms, outputs)
        self._heartbeats += 1
        return None

    def _advance(self, clock_ms: int, outputs: list[Output]) -> None:
        """Move the clock and emit every user that is due by it, in the order (due time, user id)."""
        self.clock_ms = clock_ms
        self._horizon_ms = horizon_ms = clock_ms - self.config.bound_ms
        wakes = self._wakes
        while wakes and wakes[0][0] < horizon_ms:
            wake_ms, user_id = heappop(wakes)
            user = self._users[user_id]
            # A user woken earlier, or since emptied, has left this entry behind.
            if user.wake_ms == wake_ms:
                self._emit(user_id, user, outputs)

    def _emit(
        self, user_id: int, user: User, outputs: list[Output], *, forced: bool = False
    ) -> None:
        config = self.config
        events, packed = sort_events(user.pending)
        # A token opened earlier than this is complete: nothing at or after the horizon joins it.
        before_ms = NEVER_MS if forced else self._horizon_ms - config.join_window_ms
        tokens, next_ms = join_events(events, config.join_window_ms, before_ms)
        ends = cuts(tokens, next_ms)
        gone = 0
        for start, end in split(ends, config.max_targets):
            targets = tokens[start:end]
            gone += sum([token.num_events for token in targets])
            outputs.append(self._message(user_id, user, targets))
        # What a cut lets out are the oldest events, with none left between them.
        left = events[gone:]
        user.pending = packed[gone * EVENT_STRUCT.size :]
        self._pending -= gone
        if ends:
            self._targets += ends[-1]
            self._folded += gone - ends[-1]
        self._sleep(user_id, user, left)
        self._changed.add(user_id)

    def _sleep(self, user_id: int, user: User, left: list[PendingEvent]) -> None:
        """Set when a user is looked at again who keeps these pending events."""
        user.oldest_ms = user.wake_ms = NEVER_MS
        if not left:
            return
        config = self.config
        user.oldest_ms = left[0][0]
        user.wake_ms = user.oldest_ms + config.emit_after_ms
        if user.wake_ms < self._horizon_ms:
            # Overdue, but overlap holds him: the first cut opens once the token before it completes.
            tokens, _ = join_events(left, config.join_window_ms)
            first_end = cuts(tokens, NEVER_MS)[0]
            user.wake_ms = tokens[first_end - 1].first_ms + config.join_window_ms
        heappush(self._wakes, (user.wake_ms, user_id))

    def _message(self, user_id: int, user: User, targets: list[Token]) -> Output:
        """Pack targets behind the user's history, then count them as history."""
        long_watch_ms = self.config.long_watch_ms
        packed = b"".join([token.pack(long_watch_ms) for token in targets])
        value = encode_targets(
            partition=self.partition,
            user_id=user_id,
            clock_ms=self.clock_ms,
            first_offset=min([token.min_offset for token in targets]),
            last_offset=max([token.max_offset for token in targets]),
            lifetime_tokens=len(user.history) // TOKEN.itemsize,
            tokens=user.history + packed,
            target_offsets=[token.first_offset for token in targets],
        )
        user.history = _newest(user.history + packed, self.config.max_history * TOKEN.itemsize)
        user.frontier_ms = max([token.last_ms for token in targets])
        return Output(SEQUENCES, str(user_id), value)

    def _refuse_late(
        self, user: User, event: Event, offset: int, raw: bytes, outputs: list[Output]
    ) -> None:
        self._late += 1
        behind_horizon = event.event_time_ms < self._horizon_ms
        limit_ms = self._horizon_ms if behind_horizon else user.frontier_ms + 1
        headers = {
            "reason": "behind_horizon" if behind_horizon else "behind_frontier",
            "late_ms": str(limit_ms - event.event_time_ms),
            "source": self._source(offset),
        }
        outputs.append(Output(EVENTS_LATE, str(event.user_id), raw, headers))

    def _reject(
        self, offset: int, raw: bytes, reason: str, detail: str, outputs: list[Output]
    ) -> None:
        self._events += 1
        self._dead += 1
        source = self._source(offset)
        # Header text is ASCII: a detail can quote any character of a hostile record.
        headers = {
            "reason": reason,
            "detail": ascii(detail)[1:-1][:_MAX_DETAIL],
            "source": source,
        }
        # With its headers a record just under Kafka's limit would be over it.
        outputs.append(Output(EVENTS_DEAD, source, raw[:MAX_EVENT_BYTES], headers))

    def _source(self, offset: int) -> str:
        return f"{EVENTS}/{self.partition}/{offset}"

    def _is_foreign(self, user_id: int) -> bool:
        return partition_of(partition_key(user_id), self.num_partitions) != self.partition


def _newest(data: bytes, limit_bytes: int) -> bytes:
    return data if len(data) <= limit_bytes else data[len(data) - limit_bytes :]
