"""The id map: raw id of an item or a context token to row of a table; who has a row is not its affair.

Row 0 is shared by every id that has none. Raw ids are any 64 bits but -1, which says "no id" in
`row_ids` and therefore never has a row: items are non-negative, context tokens at most -2.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ingest.runtime.errors import ConfigError, FreshetError

FALLBACK_ROW = 0
NO_ID = -1

Ints = npt.NDArray[np.int64]

# 2**64 over the golden ratio: multiplied by it, ids that differ in few bits differ in the high ones.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class IdMap:
    """At most `num_rows - 1` raw ids, each with a row of its own, in a hash table of rows.

    Open addressing with linear probing, at most half full: a whole batch probes at once. What a
    lookup finds does not depend on the order of insertion.

    Shapes: ids and rows int64[n]; `row_ids` int64[num_rows], the raw id of every row, -1 for none.

    Example:
        >>> idmap = IdMap(4)
        >>> idmap.insert(np.array([70, 90]), np.array([1, 3]))
        >>> idmap.rows_of(np.array([90, 70, 5])).tolist()
        [3, 1, 0]
    """

    def __init__(self, num_rows: int) -> None:
        if num_rows < 2:
            raise ConfigError("table too small", detail=f"{num_rows} rows; row 0 is the fallback.")
        self.num_rows = num_rows
        self.row_ids: Ints = np.full(num_rows, NO_ID, np.int64)
        num_bits = (2 * num_rows - 1).bit_length()
        self._shift = np.uint64(64 - num_bits)
        self._mask = (1 << num_bits) - 1
        # 0, the fallback row, marks an empty slot: a search that ends there found no row.
        self._slots = np.zeros(1 << num_bits, np.int32)
        self.num_ids = 0
        self.end_row = 1

    @classmethod
    def from_row_ids(cls, row_ids: Ints) -> IdMap:
        """The map with these `row_ids`.

        Raises:
            FreshetError: row 0 has an id, or an id has two rows.
        """
        idmap = cls(len(row_ids))
        rows = np.flatnonzero(row_ids != NO_ID)
        if len(rows) and rows[0] == FALLBACK_ROW:
            raise FreshetError("id map torn", detail=f"Row 0 has the id {row_ids[0]}.")
        ids, num_rows = np.unique(row_ids[rows], return_counts=True)
        if bool((num_rows > 1).any()):
            raise FreshetError("id map torn", detail=f"Id {ids[num_rows > 1][0]} has two rows.")
        idmap.insert(row_ids[rows].astype(np.int64), rows)
        return idmap

    def insert(self, ids: Ints, rows: Ints) -> None:
        """Give `ids`, distinct and without a row, these free rows."""
        self.row_ids[rows] = ids
        self.num_ids += len(ids)
        self.end_row = max(self.end_row, int(rows.max(initial=0)) + 1)
        self._index(rows)

    def remove(self, rows: Ints) -> None:
        """Free rows in use. Indexes all others anew, so better many at once."""
        self.row_ids[rows] = NO_ID
        in_use = np.flatnonzero(self.row_ids != NO_ID)
        self.num_ids = len(in_use)
        self.end_row = int(in_use[-1]) + 1 if len(in_use) else 1
        self._slots.fill(FALLBACK_ROW)
        self._index(in_use)

    def rows_of(self, ids: Ints) -> Ints:
        """Each id's row, the fallback row where it has none."""
        slots = self._first_slot(ids)
        rows = self._slots.take(slots)
        left = np.flatnonzero(self._is_other(rows, ids))
        slots = slots[left]
        while len(left):
            slots = (slots + 1) & self._mask
            found = self._slots.take(slots)
            rows[left] = found
            other = self._is_other(found, ids[left])
            left, slots = left[other], slots[other]
        return rows.astype(np.int64)

    def _is_other(self, rows: npt.NDArray[np.int32], ids: Ints) -> npt.NDArray[np.bool_]:
        # Row 0 has no id, so the search ends there whatever is searched for.
        return (self.row_ids.take(rows) != ids) & (rows != FALLBACK_ROW)

    def _index(self, rows: Ints) -> None:
        slots = self._first_slot(self.row_ids[rows])
        while len(rows):
            free = self._slots[slots] == FALLBACK_ROW
            # Of several rows for one slot the last is kept; the others go on.
            self._slots[slots[free]] = rows[free]
            left = self._slots[slots] != rows
            rows, slots = rows[left], (slots[left] + 1) & self._mask

    def _first_slot(self, ids: Ints) -> Ints:
        mixed = ids.view(np.uint64)
        mixed = (mixed ^ (mixed >> np.uint64(32))) * _GOLDEN
        return (mixed >> self._shift).view(np.int64)
