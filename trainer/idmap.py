"""The id map: raw id of an item or a context token to row of a bounded table.

Row 0 is shared by every id that found no row free. Rows are given out in the order of admission,
and a step's new ids are admitted in ascending order, so the map is a function of the sequence of
global batches, however many ranks share them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ingest.runtime.errors import ConfigError, FreshetError

FALLBACK_ROW = 0
_NO_ID = -1


class IdMap:
    """At most `num_rows - 1` raw ids, each with a row of its own; lookups are binary searches.

    Shapes: ids and rows int64[n].

    Example:
        >>> idmap = IdMap(3)
        >>> idmap.admit(np.array([30, 70, 90]))
        2
        >>> idmap.rows_of(np.array([70, 90, 5])).tolist()
        [2, 0, 0]
    """

    def __init__(self, num_rows: int) -> None:
        if num_rows < 2:
            raise ConfigError("table too small", detail=f"{num_rows} rows; row 0 is the fallback.")
        self.num_rows = num_rows
        self._sorted_ids = np.empty(0, np.int64)
        self._sorted_rows = np.empty(0, np.int64)

    @property
    def num_ids(self) -> int:
        """How many ids have a row; rows 1..num_ids are in use."""
        return len(self._sorted_ids)

    @property
    def context_rows(self) -> npt.NDArray[np.int64]:
        """Rows of context tokens' ids, the negative ones: no items, so never drawn or recommended."""
        return self._sorted_rows[: np.searchsorted(self._sorted_ids, 0)]

    def admit(self, ids: npt.NDArray[np.int64]) -> int:
        """Give rows to those of `ids` (ascending, distinct) that have none, while rows are free.

        Returns how many were admitted. Costs a copy of the map where any is.
        """
        at, known = self._find(ids)
        room = self.num_rows - 1 - self.num_ids
        new = np.flatnonzero(~known)[:room]
        if len(new):
            rows = np.arange(self.num_ids + 1, self.num_ids + 1 + len(new))
            self._sorted_rows = np.insert(self._sorted_rows, at[new], rows)
            self._sorted_ids = np.insert(self._sorted_ids, at[new], ids[new])
        return len(new)

    def rows_of(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Each id's row, the fallback row where it has none."""
        at, known = self._find(ids)
        rows = np.full(len(ids), FALLBACK_ROW, np.int64)
        rows[known] = self._sorted_rows[at[known]]
        return rows

    def _find(
        self, ids: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        at = np.searchsorted(self._sorted_ids, ids)
        known = np.zeros(len(ids), np.bool_)
        inside = at < self.num_ids
        known[inside] = self._sorted_ids[at[inside]] == ids[inside]
        return at, known

    def row_ids(self) -> npt.NDArray[np.int64]:
        """The raw id of every row, int64[num_rows], -1 where there is none: the whole state."""
        ids = np.full(self.num_rows, _NO_ID, np.int64)
        ids[self._sorted_rows] = self._sorted_ids
        return ids

    @classmethod
    def from_row_ids(cls, row_ids: npt.NDArray[np.int64]) -> IdMap:
        """Read what `row_ids` gave.

        Raises:
            FreshetError: row 0 has an id, an id has two rows, or rows in use are not the first.
        """
        idmap = cls(len(row_ids))
        rows = np.flatnonzero(row_ids != _NO_ID)
        if not np.array_equal(rows, np.arange(1, len(rows) + 1)):
            raise FreshetError("id map torn", detail="The rows in use are not 1 to n.")
        order = np.argsort(row_ids[rows])
        idmap._sorted_ids = row_ids[rows][order].astype(np.int64)
        idmap._sorted_rows = rows[order]
        if bool((np.diff(idmap._sorted_ids) == 0).any()):
            raise FreshetError("id map torn", detail="An id has two rows.")
        return idmap
