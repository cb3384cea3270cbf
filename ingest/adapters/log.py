"""What a log is to the replay: rows in event-time order, each an encoded record or a refusal."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from ingest.adapters.arrival import Arrival, Ints
from ingest.adapters.ids import HashedIds
from ingest.runtime.errors import FreshetError

_HEAD_BYTES = 1 << 16

Identity = dict[str, str | int]


class LogError(FreshetError):
    """A log that cannot be read: missing, empty, damaged, or with the wrong columns."""


class Refusal(NamedTuple):
    """Why a row cannot become an event; `reason` is one of those of `InvalidEvent`."""

    reason: str
    detail: str


class Rows(NamedTuple):
    """A run of rows. Columns of one length; a refused row's value is what was found in the log.

    `keys`: Kafka keys, None where no user could be read. `times_ms`: event time, or that of the
    row before where a row has none. `refused`: position in this run -> why.
    """

    keys: list[bytes | None]
    values: list[bytes]
    times_ms: list[int]
    refused: dict[int, Refusal]


class EventLog(Protocol):
    """A finite log, by (event time, order of the file) unless it arrives in another order.

    Reading it twice gives the same rows.
    """

    @property
    def name(self) -> str:
        """Short name; part of generated event ids and of file names."""

    @property
    def identity(self) -> Identity:
        """What must be equal for a row number to mean the same row."""

    @property
    def ids(self) -> HashedIds:
        """The text ids that were hashed."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> Iterator[Rows]:
        """Rows `start` to `stop`, in runs of bounded length."""

    def times_ms(self, start: int, stop: int) -> Ints:
        """Event times of rows `start` to `stop`, int64 UTC."""

    def arriving(self, arrival: Arrival) -> EventLog:
        """The same rows in the order of their arrival."""


class RecordLog:
    """A log whose records lie encoded in memory.

    Args:
        times_ms: event time of each row.
        refused: row -> why.
        file_rows: each row's place in the file as it was published; the row numbers without it.
    """

    def __init__(
        self,
        name: str,
        identity: Identity,
        *,
        keys: list[bytes | None],
        values: list[bytes],
        times_ms: list[int],
        refused: dict[int, Refusal] | None = None,
        ids: HashedIds | None = None,
        file_rows: Ints | None = None,
    ) -> None:
        self.name = name
        self.identity = identity
        self.ids = ids or HashedIds()
        self._file_rows = np.arange(len(values)) if file_rows is None else file_rows
        self._keys = keys
        self._values = values
        self._times_ms = times_ms
        self._refused = refused or {}

    def __len__(self) -> int:
        return len(self._values)

    def read(self, start: int, stop: int, rows_per_run: int = 2_000) -> Iterator[Rows]:
        """Rows `start` to `stop`, in runs of at most `rows_per_run`."""
        for first in range(start, min(stop, len(self)), rows_per_run):
            last = min(first + rows_per_run, stop, len(self))
            refused = {
                row - first: self._refused[row]
                for row in range(first, last)
                if row in self._refused
            }
            yield Rows(
                self._keys[first:last],
                self._values[first:last],
                self._times_ms[first:last],
                refused,
            )

    def times_ms(self, start: int, stop: int) -> Ints:
        """Event times of rows `start` to `stop`, int64 UTC."""
        return np.array(self._times_ms[start:stop], dtype=np.int64)

    def arriving(self, arrival: Arrival) -> RecordLog:
        """The same rows in the order of their arrival."""
        if arrival.in_time_order:
            return self
        order = arrival.order_of(self.times_ms(0, len(self)), self._file_rows)
        rows = order.tolist()
        return RecordLog(
            self.name,
            {**self.identity, "arrival": arrival.label()},
            keys=[self._keys[row] for row in rows],
            values=[self._values[row] for row in rows],
            times_ms=[self._times_ms[row] for row in rows],
            refused={at: self._refused[row] for at, row in enumerate(rows) if row in self._refused},
            ids=self.ids,
            file_rows=self._file_rows[order],
        )


def require_file(path: Path) -> None:
    """Raise LogError when there is no such file or nothing in it."""
    if not path.is_file():
        raise LogError("no such log", detail=f"{path} is not a file.", hint="check the path")
    if path.stat().st_size == 0:
        raise LogError("log is empty", detail=f"{path} has 0 bytes.")


def file_identity(path: Path) -> Identity:
    """Path, length, time of change and a checksum of the head: enough to notice another file."""
    stat = path.stat()
    with path.open("rb") as file:
        head = hashlib.sha256(file.read(_HEAD_BYTES)).hexdigest()
    return {
        "path": str(path.resolve()),
        "num_bytes": stat.st_size,
        "modified_ns": stat.st_mtime_ns,
        "head_sha256": head,
    }


def file_log_name(path: Path, identity: Identity) -> str:
    """Name of a file's log: equal file names are common (`day=1/part-0`), generated ids are not."""
    return f"{path.name.split('.')[0][:64]}-{str(identity['head_sha256'])[:8]}"
