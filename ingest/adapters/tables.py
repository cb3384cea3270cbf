"""From an Arrow table in our column names to columns of numbers; a row that cannot be one is refused."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ingest.adapters.arrival import Ints
from ingest.adapters.columns import ABSENT, ACTION_CODES, Columns, Floats
from ingest.adapters.ids import HashedIds
from ingest.adapters.log import LogError, Refusal
from ingest.events import MAX_DURATION_MS, MAX_ID, MAX_PRICE_MINOR, MAX_TIME_MS

# Actions that other people's logs know by another name.
_SYNONYMS = {"favorite": "like", "view": "click", "buy": "purchase", "rating": "rate"}

# A canonical decimal that is below 2**63 whatever its digits.
_PLAIN_ID = r"^(0|[1-9][0-9]{0,17})$"

_NUMBER = r"^-?[0-9]+(\.[0-9]+)?$"

Mask = npt.NDArray[np.bool_]
Refuse = Callable[[Mask, str, str], None]


def columns_of(table: pa.Table, ids: HashedIds) -> Columns:
    """Turn a table into columns of numbers; what cannot be one is refused row by row.

    Args:
        table: user_id, item_id, action, timestamp_ms; optionally watch_ms, duration_ms, rating, and
            `value`, which means by action: watch -> seconds, purchase and return -> unit price in
            major units, rate -> the rating.
        ids: takes the ids that are text.

    Raises:
        LogError: a column's type cannot hold what it is named for.
    """
    reasons: dict[int, Refusal] = {}

    def refuse(mask: Mask, reason: str, detail: str) -> None:
        for row in np.flatnonzero(mask).tolist():
            reasons.setdefault(row, Refusal(reason, detail))

    def measure(name: str) -> Floats:
        there = name in table.column_names
        return _floats(table[name], name) if there else np.full(len(table), np.nan)

    time_ms = _times(table["timestamp_ms"], refuse)
    user_id = _ids(table["user_id"], "user_id", ids, refuse)
    item_id = _ids(table["item_id"], "item_id", ids, refuse)
    action = _actions(table["action"], refuse)
    value = measure("value")

    def value_of(*names: str) -> Floats:
        codes = [ACTION_CODES[name] for name in names]
        return np.where(np.isin(action, codes), value, np.nan)

    watch_ms = np.fmax(measure("watch_ms"), value_of("watch") * 1000)
    return Columns(
        user_id=user_id,
        item_id=item_id,
        action=action,
        event_time_ms=time_ms,
        watch_ms=_whole(watch_ms, "watch_ms", MAX_DURATION_MS, refuse),
        duration_ms=_whole(measure("duration_ms"), "duration_ms", MAX_DURATION_MS, refuse),
        price_minor=_whole(
            value_of("purchase", "return") * 100, "price_minor", MAX_PRICE_MINOR, refuse
        ),
        rating=np.fmax(measure("rating"), value_of("rate")),
        refused={
            row: (refusal, json.dumps(table.slice(row, 1).to_pylist()[0], default=str).encode())
            for row, refusal in reasons.items()
        },
    )


def _floats(column: pa.ChunkedArray, name: str) -> Floats:
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise wrong_type(name, column.type, "a number")
    found: Floats = np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    return found


def wrong_type(name: str, found: pa.DataType, wanted: str) -> LogError:
    """The error of a column that is none of what its name says."""
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
        raise wrong_type(name, column.type, "integer or text")
    column = column.fill_null("0")
    if pc.all(pc.match_substring_regex(column, _PLAIN_ID)).as_py():
        numbers: Ints = np.asarray(column.cast(pa.int64()).to_numpy(), dtype=np.int64)
        return numbers
    encoded = column.combine_chunks().dictionary_encode()
    table = np.array([ids.id_of(text) for text in encoded.dictionary.to_pylist()], dtype=np.int64)
    found: Ints = table[encoded.indices.to_numpy()]
    return found


def _all_plain(column: pa.ChunkedArray) -> bool:
    return bool(pc.min(column).as_py() >= 0 and pc.max(column).as_py() <= MAX_ID)


def _actions(column: pa.ChunkedArray, refuse: Refuse) -> Ints:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise wrong_type("action", column.type, "text")
    encoded = column.fill_null("").combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    codes = np.array([ACTION_CODES.get(_SYNONYMS.get(name, name), -1) for name in names])
    action: Ints = codes[encoded.indices.to_numpy()].astype(np.int64)
    refuse(action < 0, "unknown_action", "action is absent or not in the vocabulary")
    return action


def _whole(measured: Floats, name: str, most: int, refuse: Refuse) -> Ints:
    """Rounded to integers; ABSENT where a row has none."""
    there = ~np.isnan(measured)
    bad = there & ~((measured >= 0) & (measured <= most))
    refuse(bad, "invalid_field", f"{name} is negative or above {most}")
    return np.where(there & ~bad, np.rint(np.where(there & ~bad, measured, 0)), ABSENT).astype(
        np.int64
    )


def numbers_of(column: pa.Array) -> pa.Array:
    """Numbers, or text that is a number, as float64; null where it is none."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        is_number = pc.match_substring_regex(column, _NUMBER)
        column = pc.if_else(is_number, column, pa.scalar(None, column.type))
    return column.cast(pa.float64(), safe=False)


def times_ms_of(column: pa.ChunkedArray, unit: str) -> pa.Array:
    """Times in unit `s` or `ms`, an Arrow `timestamp`, or text in a strptime format, for `columns_of`."""
    times = column.combine_chunks()
    if unit == "ms":
        return _on_numbers(times, 1.0)
    if unit == "s":
        return _on_numbers(times, 1000.0)
    if unit != "timestamp":
        times = pc.strptime(times, format=unit, unit="s", error_is_null=True)
    return times


def _on_numbers(times: pa.Array, scale: float) -> pa.Array:
    if pa.types.is_list(times.type):
        return pa.ListArray.from_arrays(times.offsets, pc.multiply(numbers_of(times.values), scale))
    return pc.multiply(numbers_of(times), scale)
