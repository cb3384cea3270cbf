"""CSV and JSON-lines logs (.gz too), in the field names of the event contract."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import msgspec
import numpy as np

from ingest.adapters.ids import HashedIds
from ingest.adapters.log import (
    Identity,
    LogError,
    RecordLog,
    Refusal,
    file_identity,
    file_log_name,
    require_file,
)
from ingest.events import MAX_EVENT_BYTES, MAX_ID, Event, encode_record, partition_key

MAX_ROWS = 5_000_000
"""More than this is refused: the encoded records lie in memory to be sorted."""

_REQUIRED = ("user_id", "item_id", "action")
_TIME_NAMES = ("event_time_ms", "timestamp_ms")


class _Peek(msgspec.Struct, gc=False):
    """What a line needs to be put in order and into a partition."""

    user_id: Any = None
    event_time_ms: Any = None
    timestamp_ms: Any = None


_peek = msgspec.json.Decoder(_Peek)


class _Sorter:
    """Collects rows in the order of the file and hands them over by event time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: list[bytes | None] = []
        self._values: list[bytes] = []
        self._times_ms: list[int | None] = []
        self._refused: dict[int, Refusal] = {}

    def __len__(self) -> int:
        return len(self._values)

    def add(
        self, key: bytes | None, value: bytes, time_ms: int | None, refusal: Refusal | None = None
    ) -> None:
        """Take a row; one without a time takes that of the row before, the first ones the next."""
        if len(self._values) >= MAX_ROWS:
            raise LogError(
                "log is too large to sort in memory",
                detail=f"{self._path} has more than {MAX_ROWS} rows.",
                hint="split it by time and replay the parts in order, or use Parquet",
            )
        if time_ms is None and self._times_ms:
            time_ms = self._times_ms[-1]
        if refusal is not None:
            self._refused[len(self._values)] = refusal
        self._keys.append(key)
        self._values.append(value)
        self._times_ms.append(time_ms)

    def log(self, identity: Identity, ids: HashedIds) -> RecordLog:
        """The rows by (event time, order of the file)."""
        if not self._values:
            raise LogError("log is empty", detail=f"{self._path} has no rows.")
        first_ms = next((time_ms for time_ms in self._times_ms if time_ms is not None), 0)
        times_ms = [first_ms if time_ms is None else time_ms for time_ms in self._times_ms]
        file_rows = np.argsort(np.array(times_ms, dtype=np.int64), kind="stable")
        order = file_rows.tolist()
        return RecordLog(
            file_log_name(self._path, identity),
            identity,
            keys=[self._keys[row] for row in order],
            values=[self._values[row] for row in order],
            times_ms=[times_ms[row] for row in order],
            refused={
                at: self._refused[row] for at, row in enumerate(order) if row in self._refused
            },
            ids=ids,
            file_rows=file_rows,
        )


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    require_file(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield cast(IO[bytes], file)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise LogError(
            "compressed log is damaged",
            detail=f"{path}: {error}.",
            hint="fetch it again; nothing of it was sent",
        ) from error
    except OSError as error:
        raise LogError("log cannot be read", detail=f"{path}: {error.strerror}.") from error


def open_jsonl(path: Path) -> RecordLog:
    """Open a log of one JSON event a line.

    A line is sent as the bytes it is, whatever they are, as a client of any language could: what
    is no event becomes a dead letter downstream. Only `timestamp_ms` is renamed to
    `event_time_ms`. A line without a time keeps its place behind the line before it.

    Raises:
        LogError: no readable file, damaged compression, no rows, or more than MAX_ROWS.
    """
    rows = _Sorter(path)
    with _opened(path) as file:
        for line in file:
            line = line.rstrip(b"\r\n")
            if len(line) > MAX_EVENT_BYTES:
                detail = f"{len(line)} bytes, a message carries at most {MAX_EVENT_BYTES}"
                rows.add(None, line, None, Refusal("too_large", detail))
                continue
            rows.add(*_ordered(line))
        identity = file_identity(path)
    return rows.log(identity, HashedIds())


def _ordered(line: bytes) -> tuple[bytes | None, bytes, int | None]:
    try:
        peek = _peek.decode(line)
        if peek.event_time_ms is None and peek.timestamp_ms is not None:
            fields = msgspec.json.decode(line)
            fields["event_time_ms"] = fields.pop("timestamp_ms")
            line = msgspec.json.encode(fields)
            peek.event_time_ms = peek.timestamp_ms
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, line, None
    key = partition_key(peek.user_id) if _is_id(peek.user_id) else None
    return key, line, peek.event_time_ms if _is_id(peek.event_time_ms) else None


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_ID


def open_csv(path: Path) -> RecordLog:
    """Open a log with a header row naming fields of the event contract.

    Needed: user_id, item_id, action, and event_time_ms or timestamp_ms. Without `event_id` a row
    gets its log's name and row number. An empty or NaN optional field is left out. A column the
    contract does not know goes into `context`. Text ids are hashed. A row that is no event is
    refused, not dropped.

    Raises:
        LogError: no readable file, damaged compression, wrong columns, no rows, or more than
            MAX_ROWS.
    """
    ids = HashedIds()
    rows = _Sorter(path)
    with _opened(path) as file:
        identity = file_identity(path)
        name = file_log_name(path, identity)
        lines = io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="")
        reader = csv.DictReader(lines)
        try:
            _require_columns(path, reader.fieldnames or [])
            for number, fields in enumerate(reader):
                _add_csv_row(rows, fields, f"{name}-{number}", ids)
        except csv.Error as error:
            raise LogError(
                "not a readable CSV file", detail=f"{path}, line {reader.line_num}: {error}."
            ) from error
    return rows.log(identity, ids)


def _require_columns(path: Path, present: Any) -> None:
    names = [_clean(name) for name in present]
    missing = [name for name in _REQUIRED if name not in names]
    if not any(name in names for name in _TIME_NAMES):
        missing.append(" or ".join(_TIME_NAMES))
    if missing or names != list(present):
        lacks = f"lacks {missing}" if missing else "has a first line that is no UTF-8"
        raise LogError(
            "log has the wrong columns",
            detail=f"{path} {lacks}; its first line names {names}.",
            hint="the first line must name fields of the event contract (ingest/README.md)",
        )


def _add_csv_row(rows: _Sorter, fields: dict[Any, Any], event_id: str, ids: HashedIds) -> None:
    raw = msgspec.json.encode({str(name): _clean(text) for name, text in fields.items()})
    if None in fields or None in fields.values():
        refusal = Refusal("invalid_field", "the row has not as many fields as the first line")
        rows.add(None, raw, None, refusal)
        return
    try:
        event = msgspec.convert(_event_fields(fields, event_id, ids), Event, strict=False)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        reason = "unknown_action" if str(error).endswith("`$.action`") else "invalid_field"
        rows.add(None, raw, _time_of(fields), Refusal(reason, str(error)))
        return
    rows.add(partition_key(event.user_id), encode_record(event), event.event_time_ms)


def _clean(text: Any) -> str:
    return str(text).encode(errors="surrogateescape").decode(errors="replace")


def _time_of(fields: dict[str, str]) -> int | None:
    for name in _TIME_NAMES:
        text = fields.get(name, "")
        if text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= MAX_ID:
            return int(text)
    return None


def _event_fields(fields: dict[str, str], event_id: str, ids: HashedIds) -> dict[str, Any]:
    found: dict[str, Any] = {"event_id": event_id}
    extra: dict[str, str] = {}
    for name, text in fields.items():
        text.encode()  # bytes that are no UTF-8 came in as surrogates and must not go on
        if text == "" or text.lower() == "nan":
            continue
        if name in ("user_id", "item_id"):
            found[name] = ids.id_of(text)
        elif name in _TIME_NAMES:
            found.setdefault("event_time_ms", text)
        elif name in Event.__struct_fields__:
            found[name] = text
        else:
            extra[name] = text
    if extra:
        found["context"] = extra
    return found
