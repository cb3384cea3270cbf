"""The join: one user's events, in time order, become tokens."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import msgspec

from features.sequences import TOKEN_STRUCT
from ingest.events import ACTION_BITS, LONG_WATCH_BIT, Event

# A pending event as it lies in memory and in Flink's state: event time, source offset, item,
# price (-1 where the event has none), watch time, action bits. The first two order it.
EVENT_STRUCT = struct.Struct("<qqqqII")

RETURN_BIT = ACTION_BITS["return"]

# Later than any event.
NEVER_MS = 2**63 - 1

PendingEvent = tuple[int, int, int, int, int, int]


class Token(msgspec.Struct, gc=False):
    """What one user did to one item within the join window.

    `first_ms` and `first_offset` are the event that opened it, `last_ms` the newest folded in;
    `min_offset` and `max_offset` span the source offsets of its `num_events` events.
    `price_minor` is -1 before any price; `returned_minor` is what was given back of no known price.
    """

    first_ms: int
    first_offset: int
    item_id: int
    price_minor: int
    watch_ms: int
    actions: int
    last_ms: int
    min_offset: int
    max_offset: int
    num_events: int
    returned_minor: int = 0

    def pack(self, long_watch_ms: int, marks: int = 0) -> bytes:
        """The token as a record of `features.sequences.TOKEN`, with its derived bits and `marks`."""
        actions = self.actions | marks
        if self.watch_ms >= long_watch_ms:
            actions |= LONG_WATCH_BIT
        return TOKEN_STRUCT.pack(
            self.item_id,
            self.first_ms,
            self.price_minor if self.price_minor > 0 else 0,
            self.watch_ms,
            actions,
        )


def pack_event(event: Event, offset: int) -> bytes:
    """An event as a pending record, all that the join needs of it."""
    price = event.price_minor
    return EVENT_STRUCT.pack(
        event.event_time_ms,
        offset,
        event.item_id,
        -1 if price is None else price,
        event.watch_ms or 0,
        ACTION_BITS[event.action],
    )


def event_token(event: Event, offset: int) -> Token:
    """The token that an event is by itself."""
    (token,), _ = join_events(EVENT_STRUCT.iter_unpack(pack_event(event, offset)), 0)
    return token


def sort_events(pending: bytes) -> tuple[list[PendingEvent], bytes]:
    """Pending records in the order of the join, by event time, then source offset; and repacked so."""
    events = list(EVENT_STRUCT.iter_unpack(pending))
    if len(events) < 2:
        return events, pending
    ordered = sorted(events)
    if ordered == events:
        return ordered, pending
    return ordered, b"".join([EVENT_STRUCT.pack(*event) for event in ordered])


def leaves_alone(events: list[PendingEvent], before_ms: int) -> bool:
    """Whether the first of sorted events is a token by itself, and the only one opened before a time.

    False where telling would take the join itself: another event on its item, a tie.

    Example:
        >>> click, other = (1_000, 7, 42, -1, 0, 2), (3_000, 9, 43, -1, 0, 2)
        >>> [leaves_alone([click, other], before_ms) for before_ms in (1_000, 3_000, 3_001)]
        [False, True, False]
    """
    first, rest = events[0], events[1:]
    if first[0] >= before_ms:
        return False
    if not rest:
        return True
    return first[0] < rest[0][0] >= before_ms and all(e[2] != first[2] for e in rest)


def joins_pending(pending: bytes, event: Event, join_window_ms: int) -> bool:
    """Whether an event belongs to a token that one of the pending events opened before it."""
    item_id, time_ms = event.item_id, event.event_time_ms
    earlier = [e for e in EVENT_STRUCT.iter_unpack(pending) if e[2] == item_id and e[0] <= time_ms]
    tokens, _ = join_events(sorted(earlier), join_window_ms)
    return bool(tokens) and time_ms <= tokens[-1].first_ms + join_window_ms


def join_events(
    events: Iterable[PendingEvent], join_window_ms: int, opened_before_ms: int = NEVER_MS
) -> tuple[list[Token], int]:
    """Fold one user's sorted events into tokens, sorted by (first event time, first offset).

    An item's first event opens a token; its events up to `join_window_ms` later fold in: action
    bits are ORed, the longest watch and the newest price stay, a return subtracts its price. A later
    one opens the next token.

    Returns:
        The tokens opened before `opened_before_ms`, and when the first one after them opened
        (NEVER_MS where there is none).

    Example:
        >>> click, purchase = (1_000, 7, 42, -1, 0, 2), (3_000, 9, 42, 499, 0, 32)
        >>> tokens, _ = join_events([click, purchase], 60_000)
        >>> [(token.item_id, token.actions, token.price_minor) for token in tokens]
        [(42, 34, 499)]
        >>> tokens, next_ms = join_events([click, purchase], 1_999, opened_before_ms=3_000)
        >>> len(tokens), next_ms
        (1, 3000)
    """
    tokens: list[Token] = []
    next_ms = NEVER_MS
    newest: dict[int, Token] = {}
    for time_ms, offset, item_id, price, watch_ms, bits in events:
        token = newest.get(item_id)
        if token is None or time_ms > token.first_ms + join_window_ms:
            if time_ms >= opened_before_ms:
                if next_ms == NEVER_MS:
                    next_ms = time_ms
                continue
            token = newest[item_id] = Token(
                time_ms, offset, item_id, -1, watch_ms, bits, time_ms, offset, offset, 1
            )
            if price >= 0:
                _join_price(token, price, bits)
            tokens.append(token)
            continue
        token.actions |= bits
        token.last_ms = time_ms
        token.num_events += 1
        token.watch_ms = max(token.watch_ms, watch_ms)
        if price >= 0:
            _join_price(token, price, bits)
        if offset > token.max_offset:
            token.max_offset = offset
        elif offset < token.min_offset:
            token.min_offset = offset
    return tokens, next_ms


def _join_price(token: Token, price: int, bits: int) -> None:
    if bits != RETURN_BIT:
        token.price_minor, token.returned_minor = price, 0
    elif token.price_minor >= 0:
        token.price_minor = max(token.price_minor - price, 0)
    else:
        token.returned_minor += price
