"""What happens to a token after it was emitted: bits, watch and price that came late.

An amendment must not be seen by anything that opened before it happened. So it stays beside the
history, and a history is looked at through the amendments that are older than the looker; only once
no looker can be that old, it is written into the token itself.
"""

from __future__ import annotations

import struct
from bisect import bisect_left

import msgspec

from features.sequences import CONTEXT_BIT, TOKEN_STRUCT
from features.tokens import Token
from ingest.events import LONG_WATCH_BIT

_SIZE = TOKEN_STRUCT.size
_ITEM = struct.Struct("<q")
_TIME = struct.Struct("<q")
_AMENDMENT = struct.Struct("<qqqqqII")


class Amendment(msgspec.Struct, frozen=True, gc=False):
    """What events up to `time_ms` do to the emitted token of `item_id` that opened at `first_ms`.

    `price_minor` is -1 where no price replaces the token's; `returned_minor` is then subtracted.
    """

    time_ms: int
    item_id: int
    first_ms: int
    price_minor: int
    returned_minor: int
    watch_ms: int
    actions: int


def amendment_of(token: Token, first_ms: int) -> Amendment:
    """What a token's events do to the emitted token of its item that opened at `first_ms`."""
    return Amendment(
        token.last_ms, token.item_id, first_ms, token.price_minor, token.returned_minor,
        token.watch_ms, token.actions,
    )  # fmt: skip


def unpack_amendments(packed: bytes) -> list[Amendment]:
    """Amendments in the order in which they came."""
    return [Amendment(*fields) for fields in _AMENDMENT.iter_unpack(packed)]


def pack_amendments(amendments: list[Amendment]) -> bytes:
    """The inverse of `unpack_amendments`."""
    return b"".join([_AMENDMENT.pack(*msgspec.structs.astuple(each)) for each in amendments])


def find_token(history: bytes, item_id: int, since_ms: int, until_ms: int) -> int:
    """Where the newest token of an item that opened within [since_ms, until_ms] begins; -1 if none.

    Example:
        >>> history = TOKEN_STRUCT.pack(7, 100, 0, 0, 2) + TOKEN_STRUCT.pack(7, 200, 0, 0, 2)
        >>> [find_token(history, 7, 50, until_ms) for until_ms in (99, 100, 250)]
        [-1, 0, 32]
    """
    wanted = _ITEM.pack(item_id)
    at = len(history)
    while (at := history.rfind(wanted, 0, at + 7)) >= 0:
        if at % _SIZE == 0:
            _, first_ms, _, _, actions = TOKEN_STRUCT.unpack_from(history, at)
            if first_ms < since_ms:
                return -1
            if first_ms <= until_ms and not actions & CONTEXT_BIT:
                return at
    return -1


def amend(token: bytes, amendment: Amendment, long_watch_ms: int) -> bytes:
    """A TOKEN record with an amendment written into it: bits are ORed, the longest watch stays."""
    item_id, first_ms, price, watch_ms, actions = TOKEN_STRUCT.unpack(token)
    watch_ms = max(watch_ms, amendment.watch_ms)
    actions |= amendment.actions
    if watch_ms >= long_watch_ms:
        actions |= LONG_WATCH_BIT
    if amendment.price_minor >= 0:
        price = amendment.price_minor
    else:
        price = max(price - amendment.returned_minor, 0)
    return TOKEN_STRUCT.pack(item_id, first_ms, price, watch_ms, actions)


def amended(
    history: bytes, amendments: list[Amendment], long_watch_ms: int, before_ms: int
) -> bytes:
    """A history as who opens at `before_ms` may see it: with the amendments of events before that."""
    for each in amendments:
        if each.time_ms < before_ms:
            at = find_token(history, each.item_id, each.first_ms, each.first_ms)
            if at >= 0:
                token = amend(history[at : at + _SIZE], each, long_watch_ms)
                history = history[:at] + token + history[at + _SIZE :]
    return history


def settle(
    history: bytes,
    amendments: list[Amendment],
    long_watch_ms: int,
    *,
    frontier_ms: int,
    join_window_ms: int,
    floor_ms: int,
) -> tuple[bytes, list[Amendment]]:
    """Write into the history what nobody can peek at any more; the history, and what stays beside it.

    Every later target opens after `frontier_ms`, and every token corrected later at or after
    `floor_ms`. A correction's history ends `join_window_ms` before its token, so an amendment from
    within its own token's join window cannot be seen by it too early.
    """
    ready: list[Amendment] = []
    left: list[Amendment] = []
    held: set[tuple[int, int]] = set()
    for each in amendments:
        token = (each.item_id, each.first_ms)
        if find_token(history, each.item_id, each.first_ms, each.first_ms) < 0:
            continue  # the history has let the token go
        joins = each.time_ms <= each.first_ms + join_window_ms
        unseen = each.time_ms <= frontier_ms and (joins or each.time_ms < floor_ms)
        # Amendments of one token are written in the order in which they came: the last price stays.
        if unseen and token not in held:
            ready.append(each)
        else:
            held.add(token)
            left.append(each)
    return amended(history, ready, long_watch_ms, frontier_ms + 1), left


def history_before(history: bytes, first_ms: int) -> bytes:
    """The tokens of a history, which is in order of time, that opened before `first_ms`."""
    count = bisect_left(
        range(len(history) // _SIZE),
        first_ms,
        key=lambda index: _TIME.unpack_from(history, index * _SIZE + 8)[0],
    )
    return history[: count * _SIZE]
