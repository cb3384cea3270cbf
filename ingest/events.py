"""The event contract: what may stand in the `events` topic and how it is read and checked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from ingest.runtime.errors import FreshetError

# Append-only: an action's bit is its index, and bits live in stored sequences for ever.
ActionName = Literal[
    "impression", "click", "watch", "like", "cart", "purchase", "return", "rate",
    "share", "comment", "follow", "bookmark", "skip",
]  # fmt: skip
ACTIONS: tuple[str, ...] = ActionName.__args__  # type: ignore[attr-defined]
ACTION_BITS: dict[str, int] = {name: 1 << index for index, name in enumerate(ACTIONS)}

# A token also carries bits no event names: derived ones start here, above every action's bit.
LONG_WATCH_BIT = 1 << 24

# Below Kafka's default limit for one message (1,048,588 bytes with its frame).
MAX_EVENT_BYTES = 1_000_000

MAX_ID = 2**63 - 1
MAX_TIME_MS = 4_102_444_800_000  # the year 2100
MAX_DURATION_MS = 2**32 - 1
MAX_PRICE_MINOR = 2**53

_Id = Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)]
_TimeMs = Annotated[int, msgspec.Meta(ge=0, le=MAX_TIME_MS)]
_DurationMs = Annotated[int, msgspec.Meta(ge=0, le=MAX_DURATION_MS)]
_Money = Annotated[int, msgspec.Meta(ge=0, le=MAX_PRICE_MINOR)]


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One thing a user did to one item.

    Units: `*_ms` int64 milliseconds, UTC; `price_minor` in minor units of `currency` (cents).
    Unknown fields of a record are ignored here and stay in the topic's bytes.

    Example:
        >>> decode_record(b'{"event_id":"a","user_id":1,"item_id":2,"action":"click","event_time_ms":3}')
        Event(event_id='a', user_id=1, item_id=2, action='click', event_time_ms=3, watch_ms=None, duration_ms=None, price_minor=None, currency=None, request_id=None, context=None)
    """

    event_id: _Id | Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    user_id: _Id
    item_id: _Id
    action: ActionName
    event_time_ms: _TimeMs
    watch_ms: _DurationMs | None = None
    duration_ms: _DurationMs | None = None
    price_minor: _Money | None = None
    currency: Annotated[str, msgspec.Meta(max_length=8)] | None = None
    request_id: str | int | None = None
    context: dict[str, Any] | None = None


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A record that only moves its partition's clock to `heartbeat_ms`."""

    heartbeat_ms: _TimeMs


class InvalidEvent(FreshetError):
    """A record that is no event; `reason` is one of a closed set and labels metrics."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail=detail)
        self.reason = reason


_event_decoder = msgspec.json.Decoder(Event)
_heartbeat_decoder = msgspec.json.Decoder(Heartbeat)
_encoder = msgspec.json.Encoder()


def decode_record(raw: bytes) -> Event | Heartbeat:
    """Read one record of the `events` topic.

    Raises:
        InvalidEvent: `empty`, `too_large`, `malformed_json`, `unknown_action` or `invalid_field`.
    """
    try:
        if len(raw) <= MAX_EVENT_BYTES:
            return _event_decoder.decode(raw)
    except msgspec.DecodeError as error:
        return _decode_other(raw, error)
    except (UnicodeDecodeError, RecursionError) as error:
        raise InvalidEvent("malformed_json", str(error)) from None
    raise InvalidEvent("too_large", f"{len(raw)} bytes, at most {MAX_EVENT_BYTES} are read.")


def _decode_other(raw: bytes, error: msgspec.DecodeError) -> Heartbeat:
    try:
        return _heartbeat_decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass  # not a heartbeat either: the event decoder's message is the one that helps
    if not raw:
        raise InvalidEvent("empty", "The record has no bytes.") from None
    if not isinstance(error, msgspec.ValidationError):
        raise InvalidEvent("malformed_json", str(error)) from None
    reason = "unknown_action" if str(error).endswith("`$.action`") else "invalid_field"
    raise InvalidEvent(reason, str(error)) from None


def encode_record(record: Event | Heartbeat) -> bytes:
    """Write one record of the `events` topic.

    Example:
        >>> encode_record(Heartbeat(heartbeat_ms=7))
        b'{"heartbeat_ms":7}'
    """
    return _encoder.encode(record)


def partition_key(user_id: int) -> bytes:
    """The Kafka key that puts all of a user's events, and later sequences, into one partition."""
    return b"%d" % user_id
