"""Parquet logs: user_id, item_id, action, timestamp_ms, and optionally value."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ingest.adapters.columns import ABSENT, ACTION_CODES, ColumnLog, Columns, Floats, Ints
from ingest.adapters.ids import HashedIds
from ingest.adapters.log import LogError, Refusal, file_identity, file_log_name, require_file
from ingest.events import MAX_DURATION_MS, MAX_ID, MAX_PRICE_MINOR, MAX_TIME_MS

MAX_ROWS = 100_000_000
"""More than this is refused: the sorted columns (56 bytes a row) lie in memory."""

_REQUIRED = ("user_id", "item_id", "action", "timestamp_ms")

# Actions that other people's logs know by another name.
_SYNONYMS = {"favorite": "like", "view": "click", "buy": "purchase", "rating": "rate"}

Mask = npt.NDArray[np.bool_]
Refuse = Callable[[Mask, str, str], None]


def open_parquet(path: Path) -> ColumnLog:
    """Open a Parquet log, sorted by (timestamp_ms, row of the file).

    `value` means, by action: watch -> seconds watched, purchase and return -> unit price in major
    units, rate -> the rating (put into `context`). It is left out where it is null or NaN. Every
    other column (a session's id, the order of an earlier file) is not read. A row without a usable
    id, action or time is refused, not dropped.

    Raises:
        LogError: no such file, no Parquet, a column is missing or of a wrong type, no rows, or
            more than MAX_ROWS.
    """
    require_file(path)
    try:
        identity = file_identity(path)
        table = _read(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise LogError("not a readable Parquet file", detail=f"{path}: {error}.") from error
    ids = HashedIds()
    return ColumnLog(file_log_name(path, identity), identity, columns_of(table, ids), ids)


def _read(path: Path) -> pa.Table:
    with pq.ParquetFile(path) as file:
        present = set(file.schema_arrow.names)
        missing = [name for name in _REQUIRED if name not in present]
        if missing:
            raise LogError(
                "log has the wrong columns",
                detail=f"{path} lacks {missing}; it has {sorted(present)}.",
                hint=f"needed: {', '.join(_REQUIRED)}; optional: value",
            )
        num_rows = file.metadata.num_rows
        if num_rows == 0:
            raise LogError("log is empty", detail=f"{path} has no rows.")
        if num_rows > MAX_ROWS:
            raise LogError(
                "log is too large to sort in memory",
                detail=f"{path} has {num_rows} rows, at most {MAX_ROWS} are sorted.",
                hint="split it by time and replay the parts in order",
            )
        return file.read(columns=[*_REQUIRED, *({"value"} & present)])


def columns_of(table: pa.Table, ids: HashedIds) -> Columns:
    """Turn a table into columns of numbers; what cannot be one is refused row by row.

    Raises:
        LogError: a column's type cannot hold what it is named for.
    """
    reasons: dict[int, Refusal] = {}

    def refuse(mask: Mask, reason: str, detail: str) -> None:
        for row in np.flatnonzero(mask).tolist():
            reasons.setdefault(row, Refusal(reason, detail))

    time_ms = _times(table["timestamp_ms"], refuse)
    user_id = _ids(table["user_id"], "user_id", ids, refuse)
    item_id = _ids(table["item_id"], "item_id", ids, refuse)
    action = _actions(table["action"], refuse)
    value = (
        _floats(table["value"], "value")
        if "value" in table.column_names
        else np.full(len(table), np.nan)
    )
    watch_ms = _scaled(value, action == ACTION_CODES["watch"], 1000, MAX_DURATION_MS, refuse)
    priced = (action == ACTION_CODES["purchase"]) | (action == ACTION_CODES["return"])
    price_minor = _scaled(value, priced, 100, MAX_PRICE_MINOR, refuse)
    return Columns(
        user_id=user_id,
        item_id=item_id,
        action=action,
        event_time_ms=time_ms,
        watch_ms=watch_ms,
        price_minor=price_minor,
        rating=np.where(action == ACTION_CODES["rate"], value, np.nan),
        refused={
            row: (refusal, json.dumps(table.slice(row, 1).to_pylist()[0], default=str).encode())
            for row, refusal in reasons.items()
        },
    )


def _floats(column: pa.ChunkedArray, name: str) -> Floats:
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise _wrong_type(name, column.type, "a number")
    found: Floats = np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    return found


def _wrong_type(name: str, found: pa.DataType, wanted: str) -> LogError:
    return LogError(
        "log has the wrong columns", detail=f"Column {name} is of type {found}, not {wanted}."
    )


def _times(column: pa.ChunkedArray, refuse: Refuse) -> Ints:
    """Milliseconds; a row without a time takes the one before, the first rows the one after."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
    as_float = _floats(column, "timestamp_ms")
    bad = ~((as_float >= 0) & (as_float <= MAX_TIME_MS))
    refuse(bad, "invalid_field", "timestamp_ms is absent or outside 1970 to 2100")
    # float64 holds every millisecond until 2100 exactly.
    time_ms = np.where(bad, 0, as_float).astype(np.int64)
    last_good = np.maximum.accumulate(np.where(bad, np.argmin(bad), np.arange(len(bad))))
    filled: Ints = time_ms[last_good]
    return filled


def _ids(column: pa.ChunkedArray, name: str, ids: HashedIds, refuse: Refuse) -> Ints:
    absent = np.asarray(column.is_null().to_numpy(), dtype=bool)
    if pa.types.is_floating(column.type):
        as_float = _floats(column, name)
        absent = ~(np.isfinite(as_float) & (as_float == np.floor(as_float)))
        absent |= np.abs(as_float) > 2**53
        column = pa.chunked_array([pa.array(np.where(absent, 0, as_float).astype(np.int64))])
    refuse(absent, "invalid_field", f"{name} is absent or no id")
    if pa.types.is_integer(column.type):
        if pc.min(column).as_py() is not None and _all_plain(column):
            plain: Ints = np.asarray(column.fill_null(0).to_numpy(), dtype=np.int64)
            return plain
        column = column.cast(pa.string())
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise _wrong_type(name, column.type, "integer or text")
    encoded = column.fill_null("0").combine_chunks().dictionary_encode()
    table = np.array([ids.id_of(text) for text in encoded.dictionary.to_pylist()], dtype=np.int64)
    found: Ints = table[encoded.indices.to_numpy()]
    return found


def _all_plain(column: pa.ChunkedArray) -> bool:
    return bool(pc.min(column).as_py() >= 0 and pc.max(column).as_py() <= MAX_ID)


def _actions(column: pa.ChunkedArray, refuse: Refuse) -> Ints:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise _wrong_type("action", column.type, "text")
    encoded = column.fill_null("").combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    codes = np.array([ACTION_CODES.get(_SYNONYMS.get(name, name), -1) for name in names])
    action: Ints = codes[encoded.indices.to_numpy()].astype(np.int64)
    refuse(action < 0, "unknown_action", "action is absent or not in the vocabulary")
    return action


def _scaled(value: Floats, applies: Mask, scale: int, most: int, refuse: Refuse) -> Ints:
    """`value * scale` as an integer where it applies and is there, ABSENT elsewhere."""
    there = applies & ~np.isnan(value)
    scaled = np.where(there, value, 0) * scale
    bad = there & ~((scaled >= 0) & (scaled <= most))
    refuse(bad, "invalid_field", f"value is negative or above {most} / {scale}")
    return np.where(there & ~bad, np.rint(np.where(bad, 0, scaled)), ABSENT).astype(np.int64)
