"""The state machine of one partition: its log in, messages out, nothing else looked at.

No Flink here. What comes out depends on the records and their order alone: not on how they are cut
into batches, when they are read, how often the machine was saved and restored between two, or which
users were in memory.
"""

from __future__ import annotations

from features.config import FeaturesConfig
from features.eviction import TouchLog
from features.messages import MessageWriter
from features.outputs import Output, dead_output, late_output
from features.partition_meta import pack_meta, unpack_meta
from features.pending_queue import PendingQueue
from features.sequences import Progress
from features.stores import Stores, UserTable
from features.tally import Tally
from features.tokens import event_token, joins_pending
from features.users import BEFORE_ALL_MS, User, event_key
from ingest.events import Event, Heartbeat, InvalidEvent, decode_record, partition_key
from ingest.runtime.errors import FreshetError
from ingest.runtime.partitions import partition_of
from ingest.runtime.topics import EVENTS


class PartitionAssembler:
    """Turns one partition's records, in log order, into sequences, late and dead records.

    `clock_ms` is the running maximum of event times and heartbeats, the horizon the clock less
    `bound_ms`. Conservation holds after every record: `progress().counters.imbalance() == 0`.

    Args:
        config: the semantics.
        partition: the partition of `events` whose log this reads.
        num_partitions: of `events`; a user whose key belongs elsewhere is refused.
        stores: where users lie that are not in memory; in memory too unless given.
    """

    def __init__(
        self,
        config: FeaturesConfig,
        partition: int,
        num_partitions: int,
        stores: Stores | None = None,
    ) -> None:
        self.config = config
        self.partition = partition
        self.num_partitions = num_partitions
        self.clock_ms = BEFORE_ALL_MS
        self.next_offset = 0
        self.tally = Tally()
        self._remembered_bytes = 8 * config.remembered_ids
        stores = stores or Stores()
        self._users = UserTable(stores, config.cached_users)
        self._touches = TouchLog(stores.touches, config.user_ttl_ms, config.max_users)
        self._writer = MessageWriter(config, partition, self.tally)
        self._queue = PendingQueue(config, self._users, self._writer, self.tally)

    @property
    def num_users(self) -> int:
        """How many users have state."""
        return self._users.num_users

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
            counters=self.tally.counters(),
        )

    def save(self) -> bytes:
        """Write what has changed to the stores; what belongs to no user is returned, packed."""
        self._users.save()
        return pack_meta(
            (self.partition, self.num_partitions),
            (self.clock_ms, self.next_offset, self.num_users),
            self.tally,
            self._touches.save(),
        )

    def restore(self, meta: bytes) -> None:
        """Become what `save` wrote to the stores and returned.

        Raises:
            FreshetError: state of another layout, partition or partition count.
        """
        position, counts, touches = unpack_meta(meta, (self.partition, self.num_partitions))
        self.clock_ms, self.next_offset, num_users = position
        for name, count in zip(self.tally.__struct_fields__, counts, strict=True):
            setattr(self.tally, name, count)
        self._touches.restore(touches)
        self._users.restore(num_users)
        self._queue.restore(self.clock_ms)

    def _take(
        self, event: Event, offset: int, arrival_ms: int, raw: bytes, outputs: list[Output]
    ) -> None:
        user_id, time_ms = event.user_id, event.event_time_ms
        users, tally = self._users, self.tally
        user = users.find(user_id)
        if user is None and self._is_foreign(user_id):
            detail = f"User {user_id} does not belong to partition {self.partition}."
            return self._reject(offset, raw, "wrong_partition", detail, outputs)
        if time_ms > self.clock_ms:
            if time_ms > arrival_ms + self.config.future_bound_ms:
                detail = f"Event time {time_ms}, arrived {arrival_ms}."
                return self._reject(offset, raw, "future", detail, outputs)
            # He may leave by it, and then comes back as a new user.
            if self._advance(time_ms, outputs):
                user = users.find(user_id)
        tally.events += 1
        if user is None:
            user = self._admit(user_id, outputs)
        if user.touch < self._touches.bucket_start:
            self._touches.touch(user_id, user)
            users.changed.add(user_id)
        key = event_key(event.event_id)
        if key in user.event_keys and user.remembers(key):
            tally.duplicates += 1
            return None
        users.changed.add(user_id)
        keys = user.event_keys + key
        user.event_keys = keys[-self._remembered_bytes :]
        if time_ms < self._queue.horizon_ms or time_ms <= user.frontier_ms:
            waiting = users.waiting.get(user_id) if self._is_correctable(time_ms) else None
            window_ms = self.config.join_window_ms
            if waiting is None or not joins_pending(waiting.pending, event, window_ms):
                return self._take_late(user, event, offset, raw, outputs)
        outputs += self._queue.add(user_id, user, event, offset)
        return None

    def _take_late(
        self, user: User, event: Event, offset: int, raw: bytes, outputs: list[Output]
    ) -> None:
        """Correct the token a late event belongs to, or refuse the event."""
        told = None
        if self._is_correctable(event.event_time_ms):
            token = event_token(event, offset)
            told = self._writer.correct(event.user_id, user, token, self.clock_ms)
        if told is None:
            self.tally.late += 1
            late = late_output(
                event.user_id, event.event_time_ms, raw, self._source(offset),
                horizon_ms=self._queue.horizon_ms, frontier_ms=user.frontier_ms,
            )  # fmt: skip
            told = [late]
        outputs += told

    def _is_correctable(self, time_ms: int) -> bool:
        window_ms = self.config.correction_window_ms
        return window_ms > 0 and self.clock_ms - time_ms <= window_ms

    def _beat(
        self, time_ms: int, offset: int, arrival_ms: int, raw: bytes, outputs: list[Output]
    ) -> None:
        if time_ms > self.clock_ms:
            if time_ms > arrival_ms + self.config.future_bound_ms:
                detail = f"Heartbeat {time_ms}, arrived {arrival_ms}."
                return self._reject(offset, raw, "future", detail, outputs)
            self._advance(time_ms, outputs)
        self.tally.heartbeats += 1
        return None

    def _advance(self, clock_ms: int, outputs: list[Output]) -> bool:
        """Move the clock, emit every user due by it, then forget those silent for too long.

        Returns:
            Whether any user was forgotten.
        """
        self.clock_ms = clock_ms
        outputs += self._queue.advance(clock_ms)
        users, touches = self._users, self._touches
        before = users.num_users
        while touches.expires_ms < clock_ms:
            self.tally.expired_users += self._evict(outputs)
        if clock_ms >= touches.bucket_end_ms:
            touches.begin_bucket(clock_ms)
        return users.num_users < before

    def _admit(self, user_id: int, outputs: list[Output]) -> User:
        """Begin a user's state; the longest silent make room for it."""
        users = self._users
        while users.num_users >= self.config.max_users:
            self.tally.evicted_users += self._evict(outputs)
        return users.add(user_id)

    def _evict(self, outputs: list[Output]) -> int:
        """Forget the users of the oldest chunk, once what they still have pending is emitted."""
        users = self._users
        number, ids = self._touches.take_oldest()
        evicted = 0
        for user_id in ids:
            user = users.find(user_id)
            if user is None or user.touch != number:
                continue
            waiting = users.waiting.get(user_id)
            if waiting is not None:
                outputs += self._queue.emit(user_id, user, waiting, forced=True)
            users.drop(user_id)
            evicted += 1
        return evicted

    def _reject(
        self, offset: int, raw: bytes, reason: str, detail: str, outputs: list[Output]
    ) -> None:
        self.tally.events += 1
        self.tally.dead += 1
        outputs.append(dead_output(raw, self._source(offset), reason, detail))

    def _source(self, offset: int) -> str:
        return f"{EVENTS}/{self.partition}/{offset}"

    def _is_foreign(self, user_id: int) -> bool:
        return partition_of(partition_key(user_id), self.num_partitions) != self.partition
