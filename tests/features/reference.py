"""The semantics once more, as slowly and plainly as they can be said, to hold the assembler against."""

from __future__ import annotations

from dataclasses import dataclass, field

from features.config import FeaturesConfig
from features.offline import Record
from ingest.events import ACTION_BITS, LONG_WATCH_BIT, Event, Heartbeat, InvalidEvent, decode_record


@dataclass
class PlainToken:
    """A token with all of its events."""

    events: list[tuple[int, int, Event]]

    @property
    def first_ms(self) -> int:
        return self.events[0][0]

    @property
    def last_ms(self) -> int:
        return self.events[-1][0]

    def row(self, config: FeaturesConfig) -> tuple[int, int, int, int, int]:
        """(item, time, price, watch, actions), as the sequence contract has them."""
        events = [event for _, _, event in self.events]
        prices = [event.price_minor for event in events if event.price_minor is not None]
        watch_ms = max(event.watch_ms or 0 for event in events)
        bits = sum({ACTION_BITS[event.action] for event in events})
        bits += LONG_WATCH_BIT * (watch_ms >= config.long_watch_ms)
        return events[0].item_id, self.first_ms, prices[-1] if prices else 0, watch_ms, bits


@dataclass
class PlainMessage:
    """A targets message and, unlike a real one, the tokens behind its history."""

    user_id: int
    clock_ms: int
    history: list[PlainToken]
    targets: list[PlainToken]


@dataclass
class PlainUser:
    """One user: all tokens ever emitted, all ids ever seen."""

    pending: list[tuple[int, int, Event]] = field(default_factory=list)
    emitted: list[PlainToken] = field(default_factory=list)
    ids: list[int | str] = field(default_factory=list)
    frontier_ms: int = -1


def join(config: FeaturesConfig, pending: list[tuple[int, int, Event]]) -> list[PlainToken]:
    """Pending events to tokens."""
    tokens: list[PlainToken] = []
    for entry in sorted(pending, key=lambda entry: entry[:2]):
        same = [token for token in tokens if token.events[0][2].item_id == entry[2].item_id]
        if same and entry[0] <= same[-1].first_ms + config.join_window_ms:
            same[-1].events.append(entry)
        else:
            tokens.append(PlainToken([entry]))
    return tokens


def apart(before: list[PlainToken], after: list[PlainToken]) -> bool:
    """Whether everything in the first happened strictly before anything in the second opened."""
    return all(a.last_ms < b.first_ms for a in before for b in after)


def emit(
    config: FeaturesConfig, clock_ms: int, user_id: int, user: PlainUser, forced: bool
) -> list[PlainMessage]:
    """The messages a user's pending events let out."""
    tokens = join(config, user.pending)
    horizon_ms = clock_ms - config.bound_ms

    def may_leave(end: int) -> bool:
        complete = all(t.first_ms + config.join_window_ms < horizon_ms for t in tokens[:end])
        return (forced or complete) and apart(tokens[:end], tokens[end:])

    end = max([n for n in range(len(tokens) + 1) if may_leave(n)])
    messages = []
    start = 0
    while start < end:
        stops = [n for n in range(start + 1, end + 1) if apart(tokens[:n], tokens[n:])]
        near = [n for n in stops if n - start <= config.max_targets]
        stop = near[-1] if near else stops[0]
        history = user.emitted[-config.max_history :] if config.max_history else []
        messages.append(PlainMessage(user_id, clock_ms, history, tokens[start:stop]))
        user.emitted = user.emitted + tokens[start:stop]
        user.frontier_ms = max(user.frontier_ms, *(t.last_ms for t in tokens[start:stop]))
        start = stop
    gone = [entry for token in tokens[:end] for entry in token.events]
    user.pending = [entry for entry in user.pending if entry not in gone]
    return messages


def plain_messages(config: FeaturesConfig, log: list[Record]) -> list[PlainMessage]:
    """Every message of a log; within one clock advance in order of user."""
    users: dict[int, PlainUser] = {}
    messages: list[PlainMessage] = []
    clock_ms = -1
    for offset, arrival_ms, raw in log:
        try:
            record = decode_record(raw)
        except InvalidEvent:
            continue
        time_ms = record.heartbeat_ms if isinstance(record, Heartbeat) else record.event_time_ms
        if time_ms > clock_ms:
            if time_ms > arrival_ms + config.future_bound_ms:
                continue
            clock_ms = time_ms
            for user_id, user in sorted(users.items()):
                oldest_ms = min((entry[0] for entry in user.pending), default=time_ms)
                if oldest_ms + config.emit_after_ms < clock_ms - config.bound_ms:
                    messages += emit(config, clock_ms, user_id, user, forced=False)
        if isinstance(record, Heartbeat):
            continue
        user = users.setdefault(record.user_id, PlainUser())
        if record.event_id in user.ids[-config.remembered_ids :]:
            continue
        user.ids.append(record.event_id)
        if time_ms < clock_ms - config.bound_ms or time_ms <= user.frontier_ms:
            continue
        user.pending.append((time_ms, offset, record))
        if len(user.pending) % config.max_targets == 0 or len(user.pending) >= config.max_pending:
            messages += emit(config, clock_ms, record.user_id, user, forced=False)
            if len(user.pending) >= config.max_pending:
                messages += emit(config, clock_ms, record.user_id, user, forced=True)
    return messages
