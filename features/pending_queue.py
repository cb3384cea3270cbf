"""When a user's pending events leave: due, at a count, or at a bound; never by the wall clock."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from features.config import FeaturesConfig
from features.emission import cuts
from features.messages import MessageWriter
from features.outputs import Output
from features.stores import UserTable
from features.tally import Tally
from features.tokens import (
    EVENT_STRUCT,
    NEVER_MS,
    PendingEvent,
    join_events,
    leaves_alone,
    pack_event,
    sort_events,
)
from features.users import BEFORE_ALL_MS, User, Waiting
from ingest.events import Event


class PendingQueue:
    """The users of a partition that have pending events, by when they are looked at.

    `horizon_ms` is the clock less `bound_ms`.

    Args:
        config: the semantics.
        users: whose waiting events these are.
        writer: makes messages of the tokens that leave.
        tally: counts pending events and forced emissions.
    """

    def __init__(
        self, config: FeaturesConfig, users: UserTable, writer: MessageWriter, tally: Tally
    ) -> None:
        self.clock_ms = BEFORE_ALL_MS
        self.horizon_ms = BEFORE_ALL_MS - config.bound_ms
        self._config = config
        self._users = users
        self._writer = writer
        self._tally = tally
        self._wakes: list[tuple[int, int]] = []

    def restore(self, clock_ms: int) -> None:
        """Queue every user whose waiting events were restored."""
        self.clock_ms, self.horizon_ms = clock_ms, clock_ms - self._config.bound_ms
        self._wakes = [(waits.wake_ms, user_id) for user_id, waits in self._users.waiting.items()]
        heapify(self._wakes)

    def advance(self, clock_ms: int) -> list[Output]:
        """Move the clock; the messages of every user then due, in the order (due time, user id)."""
        self.clock_ms, self.horizon_ms = clock_ms, clock_ms - self._config.bound_ms
        outputs: list[Output] = []
        wakes, users = self._wakes, self._users
        while wakes and wakes[0][0] < self.horizon_ms:
            wake_ms, user_id = heappop(wakes)
            waiting = users.waiting.get(user_id)
            # A user woken earlier, or since emptied, has left this entry behind.
            if waiting is not None and waiting.wake_ms == wake_ms:
                outputs += self.emit(user_id, users.get(user_id), waiting)
        return outputs

    def add(self, user_id: int, user: User, event: Event, offset: int) -> list[Output]:
        """Add an event, and set when its user is looked at again; look now if he has many."""
        time_ms = event.event_time_ms
        packed = pack_event(event, offset)
        waiting = self._users.waiting.get(user_id)
        if waiting is None:
            waiting = self._users.waiting[user_id] = Waiting(oldest_ms=time_ms, pending=packed)
        else:
            waiting.pending += packed
            if time_ms < waiting.oldest_ms:
                waiting.oldest_ms = time_ms
        self._tally.pending += 1
        config = self._config
        if event.context and config.context_features:
            waiting.observed += self._writer.context.observe(event.context, time_ms, offset)
        overdue = waiting.oldest_ms + config.emit_after_ms < self.horizon_ms
        wake_ms = time_ms + (config.join_window_ms if overdue else config.emit_after_ms)
        if wake_ms < waiting.wake_ms:
            waiting.wake_ms = wake_ms
            heappush(self._wakes, (wake_ms, user_id))
        outputs: list[Output] = []
        num_pending = len(waiting.pending) // EVENT_STRUCT.size
        if num_pending >= config.max_pending or num_pending % config.max_targets == 0:
            if waiting.oldest_ms + config.join_window_ms < self.horizon_ms:
                outputs += self.emit(user_id, user, waiting)
            if len(waiting.pending) >= config.max_pending * EVENT_STRUCT.size:
                outputs += self.emit(user_id, user, waiting, forced=True)
        return outputs

    def emit(
        self, user_id: int, user: User, waiting: Waiting, *, forced: bool = False
    ) -> list[Output]:
        """The messages of a user's complete tokens up to a cut; of all of them when forced."""
        config, tally = self._config, self._tally
        outputs: list[Output] = []
        tally.forced_emissions += forced
        events, packed = sort_events(waiting.pending)
        # A token opened earlier than this is complete: nothing at or after the horizon joins it.
        before_ms = NEVER_MS if forced else self.horizon_ms - config.join_window_ms
        gone = 0
        if leaves_alone(events, before_ms) and self._writer.is_plain(user, waiting, events[0]):
            gone = 1
            outputs = self._writer.emit_plain(user_id, user, events[0], self.clock_ms)
        else:
            tokens, next_ms = join_events(events, config.join_window_ms, before_ms)
            ends = cuts(tokens, next_ms)
            if ends:
                leaving = tokens[: ends[-1]]
                gone = sum([token.num_events for token in leaving])
                outputs = self._writer.emit(user_id, user, waiting, leaving, ends, self.clock_ms)
        # What a cut lets out are the oldest events, with none left between them.
        waiting.pending = packed[gone * EVENT_STRUCT.size :]
        tally.pending -= gone
        self._sleep(user_id, waiting, events[gone:])
        self._users.changed.add(user_id)
        return outputs

    def _sleep(self, user_id: int, waiting: Waiting, left: list[PendingEvent]) -> None:
        """Set when a user is looked at again who keeps these pending events."""
        if not left:
            del self._users.waiting[user_id]
            return
        config = self._config
        waiting.oldest_ms = left[0][0]
        waiting.wake_ms = waiting.oldest_ms + config.emit_after_ms
        if waiting.wake_ms < self.horizon_ms:
            # Overdue, but overlap holds him: the first cut opens once the token before it completes.
            tokens, _ = join_events(left, config.join_window_ms)
            first_end = cuts(tokens, NEVER_MS)[0]
            waiting.wake_ms = tokens[first_end - 1].first_ms + config.join_window_ms
        heappush(self._wakes, (waiting.wake_ms, user_id))
