"""Whether bytes are an event: checked, its text ids hashed, its re-sends remembered."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ingest.adapters.ids import HashedIds
from ingest.events import Heartbeat, InvalidEvent, decode_record
from ingest.runtime.errors import FreshetError
from ingest.runtime.lock import lock_directory

_raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
EventKey = tuple[int, int | str]


class _Ids(msgspec.Struct, gc=False):
    user_id: Any = None
    item_id: Any = None


_ids = msgspec.json.Decoder(_Ids)


class Admitted(NamedTuple):
    """An event's bytes, whose it is, and what its re-sends share."""

    user_id: int
    value: bytes
    key: EventKey


class IdDictionary:
    """The text ids this gateway hashed, in a file of one JSON object a line, for ever.

    A line is written before its event is; after a power cut a text may be missing until it is seen
    again, when it is written again.

    Raises:
        ConfigError: another gateway keeps its dictionary in the same directory.
        FreshetError: the file is damaged.
    """

    def __init__(self, path: Path, max_ids: int) -> None:
        self._max_ids = max_ids
        self._lock = lock_directory(
            path.parent, hint="give each gateway an ids_file in a directory of its own"
        )
        self._ids = HashedIds.read(path) if path.exists() else HashedIds()
        # Written anew, so that a line a crash cut off does not run into the next.
        self._ids.write(path)
        self._file = path.open("ab")

    def id_of(self, text: str) -> int:
        """The id for a text.

        Raises:
            InvalidEvent: the dictionary is full, or another text has the same hash.
        """
        before = len(self._ids)
        try:
            found = self._ids.id_of(text)
        except FreshetError as error:
            raise InvalidEvent("invalid_field", str(error)) from error
        if len(self._ids) > before:
            if before >= self._max_ids:
                self._ids.forget(found)
                raise InvalidEvent(
                    "invalid_field", f"No room for another text id: {before} are known."
                )
            self._file.write(self._ids.line(found))
            self._file.flush()
        return found

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._lock.close()


class Admission:
    """Admits events one by one.

    Args:
        ids: hashes text ids; without it they are refused.
        remembered_events: how many of the newest accepted events are known again.
    """

    def __init__(self, ids: IdDictionary | None, remembered_events: int) -> None:
        self._hashed = ids
        self._max_remembered = remembered_events
        self._remembered: OrderedDict[EventKey, None] = OrderedDict()

    def admit(self, raw: bytes) -> Admitted:
        """Check one event.

        Raises:
            InvalidEvent: the bytes are no event.
        """
        try:
            event = decode_record(raw)
        except InvalidEvent:
            if self._hashed is None or (hashed := self._with_hashed_ids(raw)) is None:
                raise
            raw = hashed
            event = decode_record(raw)
        if isinstance(event, Heartbeat):
            raise InvalidEvent("invalid_field", "Clients do not send heartbeats.")
        return Admitted(event.user_id, raw, (event.user_id, event.event_id))

    def _with_hashed_ids(self, raw: bytes) -> bytes | None:
        """The same bytes with integers for text ids; None where that cannot be why they are bad."""
        assert self._hashed is not None
        try:
            found = _ids.decode(raw)
            fields = _raw_fields.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        texts = {"user_id": found.user_id, "item_id": found.item_id}
        texts = {name: text for name, text in texts.items() if isinstance(text, str) and text}
        if not texts:
            return None
        # Checked before anything is written down: what is wrong otherwise teaches no ids.
        decode_record(_replaced(fields, dict.fromkeys(texts, 0)))
        return _replaced(fields, {name: self._hashed.id_of(text) for name, text in texts.items()})

    def is_known(self, key: EventKey) -> bool:
        """Whether this event was accepted before, as far as is remembered."""
        return key in self._remembered

    def remember(self, key: EventKey) -> None:
        """Know an accepted event again; the oldest ones are forgotten."""
        self._remembered[key] = None
        if len(self._remembered) > self._max_remembered:
            self._remembered.popitem(last=False)


def _replaced(fields: dict[str, msgspec.Raw], ids: dict[str, int]) -> bytes:
    return msgspec.json.encode({**fields, **ids})
