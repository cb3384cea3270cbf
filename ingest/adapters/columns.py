"""A log held as columns of numbers, encoded only when it is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ingest.adapters.ids import HashedIds
from ingest.adapters.log import Identity, Refusal, Rows
from ingest.events import ACTIONS, Event, encode_record, partition_key

ABSENT = -1
"""In an integer column of optional values: this row has none."""

ACTION_CODES: dict[str, int] = {name: code for code, name in enumerate(ACTIONS)}

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Events as columns in the order of the file, one row each.

    `action` holds indices of ACTIONS; `watch_ms` and `price_minor` hold ABSENT, `rating` NaN,
    where a row has none. `refused` maps a row to its refusal and what was found in the log.
    """

    user_id: Ints
    item_id: Ints
    action: Ints
    event_time_ms: Ints
    watch_ms: Ints
    price_minor: Ints
    rating: Floats
    refused: dict[int, tuple[Refusal, bytes]]


class ColumnLog:
    """Columns sorted by event time; ties keep the order of the file.

    The event id of a row is its log's name and its row number in the file, so sending a row twice
    sends the same event.
    """

    def __init__(self, name: str, identity: Identity, columns: Columns, ids: HashedIds) -> None:
        self.name = name
        self.identity = identity
        self.ids = ids
        self._columns = columns
        self._order = np.argsort(columns.event_time_ms, kind="stable")

    def __len__(self) -> int:
        return len(self._order)

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
        fields = zip(
            rows.tolist(),
            users,
            columns.item_id[rows].tolist(),
            columns.action[rows].tolist(),
            times_ms,
            columns.watch_ms[rows].tolist(),
            columns.price_minor[rows].tolist(),
            ratings,
            strict=True,
        )
        for at, (row, user, item, action, time_ms, watch, price, rating) in enumerate(fields):
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
                price_minor=None if price == ABSENT else price,
                context=None if rating != rating else {"rating": rating},
            )
            values.append(encode_record(event))
        return Rows([partition_key(user) for user in users], values, times_ms, refused)
