"""The semantics once more, as slowly and plainly as they can be said, to hold the assembler against.

Nothing is ever thrown away or written over here: a user is all of his tokens with all of their
events, and what a message shows is worked out anew from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from features.config import FeaturesConfig
from features.context import context_token_id
from features.offline import Record
from features.sequences import CONTEXT_BIT, SESSION_START_BIT, TARGET_ONLY_BIT
from ingest.events import ACTION_BITS, LONG_WATCH_BIT, Event, Heartbeat, InvalidEvent, decode_record

Row = tuple[int, int, int, int, int]
Entry = tuple[int, int, Event]

EARLIEST = -(10**9)
LATEST = 10**18


@dataclass
class PlainToken:
    """A token with the events it was emitted with and those that came to it later."""

    events: list[Entry]
    starts_session: bool = False
    later: list[list[Entry]] = field(default_factory=list)

    @property
    def item_id(self) -> int:
        return self.events[0][2].item_id

    @property
    def first_ms(self) -> int:
        return self.events[0][0]

    @property
    def last_ms(self) -> int:
        return self.events[-1][0]

    @property
    def actions(self) -> set[str]:
        return {event.action for _, _, event in self.events}

    def row(self, config: FeaturesConfig, before_ms: int = LATEST) -> Row:
        """(item, time, price, watch, actions) as who opens at `before_ms` may see it."""
        seen = [group for group in self.later if group[-1][0] < before_ms]
        events = [event for group in [self.events, *seen] for _, _, event in group]
        price = 0
        for event in events:
            if event.price_minor is None:
                continue
            price = (
                max(price - event.price_minor, 0) if event.action == "return" else event.price_minor
            )
        watch_ms = max(event.watch_ms or 0 for event in events)
        bits = sum({ACTION_BITS[event.action] for event in events})
        bits += LONG_WATCH_BIT * (watch_ms >= config.long_watch_ms)
        bits += SESSION_START_BIT * self.starts_session
        bits += TARGET_ONLY_BIT * (
            config.impressions == "targets" and self.actions == {"impression"}
        )
        return self.item_id, self.first_ms, price, watch_ms, bits


@dataclass
class PlainContext:
    """A feature that took a new value."""

    first_ms: int
    item_id: int

    def row(self, config: FeaturesConfig, before_ms: int = LATEST) -> Row:
        return self.item_id, self.first_ms, 0, 0, CONTEXT_BIT


@dataclass
class PlainMessage:
    """A message; `changed` is None for targets. `seen` are the tokens behind its history."""

    user_id: int
    clock_ms: int
    lifetime_tokens: int
    rows: list[Row]
    offsets: list[int]
    changed: int | None = None
    seen: list[PlainToken | PlainContext] = field(default_factory=list)
    targets: list[PlainToken] = field(default_factory=list)


@dataclass
class PlainUser:
    """One user: everything that ever entered his history, all ids ever seen."""

    pending: list[Entry] = field(default_factory=list)
    entered: list[PlainToken | PlainContext] = field(default_factory=list)
    observed: list[tuple[int, int, str, object]] = field(default_factory=list)
    context: dict[str, object] = field(default_factory=dict)
    ids: list[int | str] = field(default_factory=list)
    frontier_ms: int = -1
    active_ms: int = EARLIEST
    expires_ms: int = 0


def join(config: FeaturesConfig, pending: list[Entry]) -> list[PlainToken]:
    """Pending events to tokens."""
    tokens: list[PlainToken] = []
    for entry in sorted(pending, key=lambda entry: entry[:2]):
        same = [token for token in tokens if token.item_id == entry[2].item_id]
        if same and entry[0] <= same[-1].first_ms + config.join_window_ms:
            same[-1].events.append(entry)
        else:
            tokens.append(PlainToken([entry]))
    return tokens


def apart(before: list[PlainToken], after: list[PlainToken]) -> bool:
    """Whether everything in the first happened strictly before anything in the second opened."""
    return all(a.last_ms < b.first_ms for a in before for b in after)


class PlainPartition:
    """One partition's log, read record by record into `messages`."""

    def __init__(self, config: FeaturesConfig) -> None:
        self.config = config
        self.users: dict[int, PlainUser] = {}
        self.messages: list[PlainMessage] = []
        self.clock_ms = -1

    def read(self, offset: int, arrival_ms: int, raw: bytes) -> None:
        try:
            record = decode_record(raw)
        except InvalidEvent:
            return
        time_ms = record.heartbeat_ms if isinstance(record, Heartbeat) else record.event_time_ms
        if time_ms > self.clock_ms:
            if time_ms > arrival_ms + self.config.future_bound_ms:
                return
            self.clock_ms = time_ms
            self.emit_due()
        if isinstance(record, Heartbeat):
            return
        user = self.users.setdefault(record.user_id, PlainUser())
        bucket_ms = max(self.config.user_ttl_ms // 32, 1)
        user.expires_ms = (self.clock_ms // bucket_ms + 1) * bucket_ms + self.config.user_ttl_ms
        if record.event_id in user.ids[-self.config.remembered_ids :]:
            return
        user.ids.append(record.event_id)
        self.take(record.user_id, user, (time_ms, offset, record))

    def emit_due(self) -> None:
        config = self.config
        for user_id, user in sorted(self.users.items()):
            oldest_ms = min((entry[0] for entry in user.pending), default=self.clock_ms)
            if oldest_ms + config.emit_after_ms < self.clock_ms - config.bound_ms:
                self.emit(user_id, user, forced=False)
        for user_id in sorted(self.users):
            if self.users[user_id].expires_ms < self.clock_ms:
                self.emit(user_id, self.users[user_id], forced=True)
                del self.users[user_id]

    def take(self, user_id: int, user: PlainUser, entry: Entry) -> None:
        config, time_ms = self.config, entry[0]
        if time_ms < self.clock_ms - config.bound_ms or time_ms <= user.frontier_ms:
            if not config.correction_window_ms:
                return
            if time_ms < self.clock_ms - config.correction_window_ms:
                return
            if not any(
                token.item_id == entry[2].item_id
                and token.first_ms <= time_ms <= token.first_ms + config.join_window_ms
                for token in join(config, user.pending)
            ):
                window_ms = config.join_window_ms
                if entry[2].action in ("purchase", "return"):
                    window_ms = max(window_ms, config.attribution_ms)
                message = self.correct(user_id, user, None, PlainToken([entry]), window_ms)
                self.messages += [message] if isinstance(message, PlainMessage) else []
                return
        user.pending.append(entry)
        context = entry[2].context or {}
        user.observed += [
            (*entry[:2], name, context[name]) for name in config.context_features if name in context
        ]
        if len(user.pending) % config.max_targets == 0 or len(user.pending) >= config.max_pending:
            self.emit(user_id, user, forced=False)
            if len(user.pending) >= config.max_pending:
                self.emit(user_id, user, forced=True)

    def emit(self, user_id: int, user: PlainUser, forced: bool) -> None:
        config = self.config
        tokens = join(config, user.pending)
        horizon_ms = self.clock_ms - config.bound_ms

        def may_leave(end: int) -> bool:
            complete = all(t.first_ms + config.join_window_ms < horizon_ms for t in tokens[:end])
            return (forced or complete) and apart(tokens[:end], tokens[end:])

        end = max(n for n in range(len(tokens) + 1) if may_leave(n))
        leaving = tokens[:end]
        kept = leaving
        if config.impressions == "folded":
            kept = [token for token in leaving if token.actions != {"impression"}]
        start = 0
        while start < len(kept):
            stops = [n for n in range(start + 1, len(kept) + 1) if apart(kept[:n], kept[n:])]
            near = [n for n in stops if n - start <= config.max_targets]
            stop = near[-1] if near else stops[0]
            self.emit_run(user_id, user, kept[start:stop])
            start = stop
        gone = [entry for token in leaving for entry in token.events]
        user.pending = [entry for entry in user.pending if entry not in gone]
        user.frontier_ms = max([user.frontier_ms, *(t.last_ms for t in leaving)])
        user.entered += self.context_until(user, user.frontier_ms)

    def emit_run(self, user_id: int, user: PlainUser, run: list[PlainToken]) -> None:
        config = self.config
        oldest = max(len(user.entered) - config.max_history, 0)
        lifetime_tokens = len(user.entered)
        seen = user.entered[oldest:]
        history = [each.row(config, run[0].first_ms) for each in seen]
        entering: list[PlainToken | PlainContext] = []
        targets: list[PlainToken] = []
        corrections: list[PlainMessage] = []
        for token in run:
            if config.attribution_ms and token.actions <= {"purchase", "return"}:
                user.entered = user.entered[:lifetime_tokens] + entering
                told = self.correct(user_id, user, oldest, token, config.attribution_ms)
                if told is not None:
                    corrections += [told] if isinstance(told, PlainMessage) else []
                    continue
            token.starts_session = token.first_ms - user.active_ms > config.session_gap_ms
            user.active_ms = max(user.active_ms, token.last_ms)
            targets.append(token)
            if config.impressions != "targets" or token.actions != {"impression"}:
                entering.append(token)
        entering += self.context_until(user, max(token.last_ms for token in run))
        entering.sort(key=lambda entry: entry.first_ms)
        user.entered = user.entered[:lifetime_tokens] + entering
        if targets:
            rows = history + [token.row(config, EARLIEST) for token in targets]
            offsets = [token.events[0][1] for token in targets]
            message = PlainMessage(user_id, self.clock_ms, lifetime_tokens, rows, offsets)
            message.seen, message.targets = seen, targets
            self.messages.append(message)
        self.messages += corrections

    def correct(
        self, user_id: int, user: PlainUser, oldest: int | None, late: PlainToken, window_ms: int
    ) -> PlainMessage | bool | None:
        """The correction; True for one without news, None where the history has no such token."""
        config = self.config
        if oldest is None:
            oldest = max(len(user.entered) - config.max_history, 0)
        found = [
            each
            for each in user.entered[oldest:]
            if isinstance(each, PlainToken)
            and each.item_id == late.item_id
            and late.first_ms - window_ms <= each.first_ms <= late.first_ms
        ]
        if not found:
            return None
        token = found[-1]
        bits = token.row(config)[4]
        token.later.append(late.events)
        changed = token.row(config)[4] & ~bits
        if not changed:
            if late.first_ms > token.first_ms + config.join_window_ms:
                token.later.pop()
                return None
            return True
        kept = user.entered[oldest:]
        before = [each for each in kept if each.first_ms + config.join_window_ms < token.first_ms]
        rows = [each.row(config, token.first_ms) for each in before]
        return PlainMessage(
            user_id, self.clock_ms, oldest + len(before), [*rows, token.row(config)],
            [late.events[0][1]], changed, before, [token],
        )  # fmt: skip

    def context_until(self, user: PlainUser, until_ms: int) -> list[PlainToken | PlainContext]:
        """The context tokens of what was observed up to a time, each observation looked at once."""
        tokens: list[PlainToken | PlainContext] = []
        order = {name: at for at, name in enumerate(self.config.context_features)}
        for seen in sorted(user.observed, key=lambda seen: (*seen[:2], order[seen[2]])):
            time_ms, _, name, value = seen
            if time_ms <= until_ms:
                user.observed.remove(seen)
                if name not in user.context or user.context[name] != value:
                    user.context[name] = value
                    tokens.append(PlainContext(time_ms, context_token_id(name, value)))
        return tokens


def plain_messages(config: FeaturesConfig, log: list[Record]) -> list[PlainMessage]:
    """Every message of a log; within one clock advance in order of user."""
    partition = PlainPartition(config)
    for record in log:
        partition.read(*record)
    return partition.messages
