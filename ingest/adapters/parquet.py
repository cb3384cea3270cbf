"""Parquet logs: user_id, item_id, action, timestamp_ms, and optionally value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ingest.adapters.arrival import Ints
from ingest.adapters.columns import ColumnLog
from ingest.adapters.ids import HashedIds
from ingest.adapters.log import LogError, file_identity, file_log_name, require_file
from ingest.adapters.tables import columns_of, wrong_type

MAX_ROWS = 100_000_000
"""More than this is refused: the sorted columns (72 bytes a row) lie in memory."""

_REQUIRED = ("user_id", "item_id", "action", "timestamp_ms")
_FILE_ROW = "src_row"


def open_parquet(path: Path) -> ColumnLog:
    """Open a Parquet log, sorted by (timestamp_ms, row of the file).

    `value` means, by action: watch -> seconds watched, purchase and return -> unit price in major
    units, rate -> the rating (put into `context`). It is left out where it is null or NaN. `src_row`
    is the row's place in an earlier file, for a replay in that file's order. Every other column (a
    session's id) is not read. A row without a usable id, action or time is refused, not dropped.

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
    return ColumnLog(
        file_log_name(path, identity),
        identity,
        columns_of(table, ids),
        ids,
        file_rows=_file_rows(table),
    )


def _file_rows(table: pa.Table) -> Ints | None:
    if _FILE_ROW not in table.column_names:
        return None
    column = table[_FILE_ROW]
    if not pa.types.is_integer(column.type) or column.null_count:
        raise wrong_type(_FILE_ROW, column.type, "an integer for each row")
    return np.asarray(column.to_numpy(), dtype=np.int64)


def _read(path: Path) -> pa.Table:
    with pq.ParquetFile(path) as file:
        present = set(file.schema_arrow.names)
        missing = [name for name in _REQUIRED if name not in present]
        if missing:
            raise LogError(
                "log has the wrong columns",
                detail=f"{path} lacks {missing}; it has {sorted(present)}.",
                hint=f"needed: {', '.join(_REQUIRED)}; optional: value, src_row",
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
        return file.read(columns=[*_REQUIRED, *({"value", _FILE_ROW} & present)])
