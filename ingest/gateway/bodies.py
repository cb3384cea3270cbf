"""From a request's body to the bytes of each event in it: JSON, JSON lines and CloudEvents.

CloudEvents 1.0 over HTTP: structured (`application/cloudevents+json`), batched
(`application/cloudevents-batch+json`) and binary mode (`ce-*` headers, the body is the data). The
event is the `data`; `id` and `time` stand in for an absent event_id and event_time_ms.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated
from urllib.parse import unquote

import msgspec

from ingest.gateway.answers import RequestRefused

_LINES = ("application/x-ndjson", "application/jsonl", "application/x-jsonlines")
_CLOUD_EVENT = "application/cloudevents+json"
_CLOUD_EVENTS = "application/cloudevents-batch+json"
_JSON = ("", "application/json")

_raws = msgspec.json.Decoder(list[msgspec.Raw])
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Envelope(msgspec.Struct):
    specversion: str
    id: str
    data: msgspec.Raw
    time: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


_envelope = msgspec.json.Decoder(_Envelope)


def records_of(body: bytes, headers: Mapping[str, str]) -> list[bytes]:
    """The bytes of each event, as they were sent; whether they are events is not looked at.

    Raises:
        RequestRefused: 400 or 415 where the body cannot be taken apart.
    """
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if headers.get("content-encoding", "identity") != "identity":
        raise _unsupported(f"Content-Encoding {headers['content-encoding']}")
    if media_type in _LINES:
        return [stripped for line in body.split(b"\n") if (stripped := line.strip())]
    if media_type == _CLOUD_EVENT:
        return [_unwrapped(body)]
    if media_type == _CLOUD_EVENTS:
        return [_unwrapped(raw) for raw in _array(body)]
    if media_type not in _JSON:
        raise _unsupported(f"Content-Type {media_type}")
    records = _array(body) if body.lstrip()[:1] == b"[" else [body.strip()]
    if "ce-id" in headers and len(records) == 1:
        return [_with_defaults(records[0], unquote(headers["ce-id"]), _time_of(headers))]
    return records


def _array(body: bytes) -> list[bytes]:
    try:
        return [bytes(raw) for raw in _raws.decode(body)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestRefused(
            400,
            "body is no JSON array",
            f"{error}.",
            "nothing was taken; send one object, an array, or JSON lines as application/x-ndjson",
        ) from error


def _unwrapped(raw: bytes) -> bytes:
    try:
        envelope = _envelope.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestRefused(
            400,
            "no CloudEvent",
            f"{error}.",
            "nothing was taken; specversion, id and data are needed",
        ) from error
    return _with_defaults(bytes(envelope.data), envelope.id, envelope.time)


def _time_of(headers: Mapping[str, str]) -> datetime | None:
    text = headers.get("ce-time")
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(unquote(text))
        if found.tzinfo is None:
            raise ValueError("no offset from UTC")
        return found
    except ValueError as error:
        raise RequestRefused(400, "no CloudEvent", f"ce-time: {error}.", "use RFC 3339") from error


def _with_defaults(data: bytes, event_id: str, time: datetime | None) -> bytes:
    """The data with event_id and event_time_ms where it has none; other bytes stay as they are."""
    try:
        fields = _fields.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return data  # no object: refused with a reason by whoever reads it as an event
    absent = {"event_id": msgspec.Raw(msgspec.json.encode(event_id))}
    if time is not None:
        time_ms = round(time.timestamp() * 1000)
        absent["event_time_ms"] = msgspec.Raw(msgspec.json.encode(time_ms))
    if absent.keys() <= fields.keys():
        return data
    return msgspec.json.encode({**absent, **fields})


def _unsupported(what: str) -> RequestRefused:
    return RequestRefused(
        415, "unsupported media type", f"{what}.", f"send {_JSON[1]}, {_LINES[0]} or {_CLOUD_EVENT}"
    )
