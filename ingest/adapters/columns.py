"""A log held as columns of numbers, encoded only when it is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from ingest.adapters.arrival import Arrival, Ints
from ingest.adapters.ids import HashedIds
from ingest.adapters.log import Identity, Refusal, Rows
from ingest.events import ACTIONS, Event, encode_record, partition_key

ABSENT = -1
"""In an integer column of optional values: this row has none."""

ACTION_CODES: dict[str, int] = {name: code for code, name in enumerate(ACTIONS)}

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Events as columns in the order of the file, one row each.

    `action` holds indices of ACTIONS; `watch_ms`, `duration_ms` and `price_minor` hold ABSENT,
    `rating` NaN, where a row has none. `refused` maps a row to its refusal and what was found in the log.
    """

    user_id: Ints
    item_id: Ints
    action: Ints
    event_time_ms: Ints
    watch_ms: Ints
    duration_ms: Ints
    price_minor: Ints
    rating: Floats
    refused: dict[int, tuple[Refusal, bytes]]

    def __len__(self) -> int:
        return len(self.user_id)


def join_columns(parts: list[Columns]) -> Columns:
    """Parts of a log, one behind the other."""
    starts = np.cumsum([0, *map(len, parts)]).tolist()
    refused = {
        start + row: refusal
        for start, part in zip(starts, parts, strict=False)
        for row, refusal in part.refused.items()
    }
    names = [field.name for field in fields(Columns) if field.name != "refused"]
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Columns(**joined, refused=refused)


class ColumnLog:
    """Columns as a log: by event time, ties in the order of the file, unless another order is given.

    The event id of a row is its log's name and its row number in the file, so sending a row twice
    sends the same event.

    Args:
        file_rows: each row's place in the file as it was published; the row numbers without it.
        order: row numbers in the order of arrival.
    """

    def __init__(
        self,
        name: str,
        identity: Identity,
        columns: Columns,
        ids: HashedIds,
        *,
        file_rows: Ints | None = None,
        order: Ints | None = None,
    ) -> None:
        self.name = name
        self.identity = identity
        self.ids = ids
        self._columns = columns
        self._file_rows = np.arange(len(columns)) if file_rows is None else file_rows
        by_time = np.argsort(columns.event_time_ms, kind="stable") if order is None else order
        self._order: Ints = by_time

    def __len__(self) -> int:
        return len(self._order)

    def arriving(self, arrival: Arrival) -> ColumnLog:
        """The same rows in the order of their arrival."""
        if arrival.in_time_order:
            return self
        times_ms = self._columns.event_time_ms[self._order]
        order = arrival.order_of(times_ms, self._file_rows[self._order])
        return ColumnLog(
            self.name,
            {**self.identity, "arrival": arrival.label()},
            self._columns,
            self.ids,
            file_rows=self._file_rows,
            order=self._order[order],
        )

    def times_ms(self, start: int, stop: int) -> Ints:
        """Event times of rows `start` to `stop`, int64 UTC."""
        times_ms: Ints = self._columns.event_time_ms[self._order[start:stop]]
        return times_ms

    def read(self, start: int, stop: int, rows_per_run: int = 2_000) -> Iterator[Rows]:
        """Rows `start` to `stop`, in runs of at most `rows_per_run`."""
        stop = min(stop, len(self))
        for first in range(start, stop, rows_per_run):
            yield self._encode(self._order[first : min(first + rows_per_run, stop)])

    def _encode(self, rows: Ints) -> Rows:
        columns = self._columns
        users: list[int] = columns.user_id[rows].tolist()
        times_ms: list[int] = columns.event_time_ms[rows].tolist()
        ratings: list[float] = columns.rating[rows].tolist()
        refused: dict[int, Refusal] = {}
        values: list[bytes] = []
        cells = zip(
            rows.tolist(),
            users,
            columns.item_id[rows].tolist(),
            columns.action[rows].tolist(),
            times_ms,
            columns.watch_ms[rows].tolist(),
            columns.duration_ms[rows].tolist(),
            columns.price_minor[rows].tolist(),
            ratings,
            strict=True,
        )
        for at, (row, user, item, action, time_ms, watch, length, price, rating) in enumerate(
            cells
        ):
            if row in columns.refused:
                refused[at], raw = columns.refused[row]
                values.append(raw)
                continue
            event = Event(
                event_id=f"{self.name}-{row}",
                user_id=user,
                item_id=item,
                action=ACTIONS[action],
                event_time_ms=time_ms,
                watch_ms=None if watch == ABSENT else watch,
                duration_ms=None if length == ABSENT else length,
                price_minor=None if price == ABSENT else price,
                context=None if rating != rating else {"rating": rating},
            )
            values.append(encode_record(event))
        return Rows([partition_key(user) for user in users], values, times_ms, refused)
