"""Which ids have a row of the table: admission by count, expiry by event time, eviction of the coldest.

All of it is a function of the global batches alone, their ids, counts and clocks, so a replay
gives the same rows, on any number of ranks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.count_sketch import CountSketch
from trainer.idmap import FALLBACK_ROW, NO_ID, IdMap, Ints

_SWEEPS_PER_TTL = 32
# A full table frees so large a part at once: picking and indexing cost a pass over all rows.
_EVICTED_PART = 16
# Counts are halved when so many tokens a row were seen (TinyLFU's sample, Einziger et al. 2017).
_TOKENS_PER_ROW = 10


class Observed(NamedTuple):
    """What a batch did to the rows; `evicted_rows` int64[n], ascending, are free or another id's."""

    num_admitted: int
    num_idle: int
    num_coldest: int
    evicted_rows: Ints


class RowAllocator:
    """Gives the rows of a table to ids and takes them back.

    Args:
        num_rows: the table's; row 0 is never given.
        admit_after: tokens an id must have been seen in to get a row, about: see `CountSketch`.
        idle_ttl_ms: an id not seen for so long by the batches' clocks loses its row, at the latest
            after 33/32 of it; 0 keeps it until the table is full.

    Shapes: R rows; `changed_steps` int64[R], the newest step that could change a row or its id, -1
    if none did. So rows changed since a step make of a copy of then the table of now.

    Example:
        >>> rows = RowAllocator(3, admit_after=1, idle_ttl_ms=0, seed=0)
        >>> ids, counts = np.array([70, 90]), np.array([2, 1])
        >>> rows.observe(ids, counts, clock_ms=5, step=0).num_admitted
        2
        >>> rows.observe(np.array([95]), np.array([1]), clock_ms=6, step=1).evicted_rows.tolist()
        [2]
    """

    def __init__(self, num_rows: int, *, admit_after: int, idle_ttl_ms: int, seed: int) -> None:
        self.idmap = IdMap(num_rows)
        self._admit_after = admit_after
        self._idle_ttl_ms = idle_ttl_ms
        self._sketch = CountSketch(num_rows, seed=seed) if admit_after > 1 else None
        self._counts: Ints = np.zeros(num_rows, np.int64)
        self._last_seen_ms: Ints = np.full(num_rows, -1, np.int64)
        self.changed_steps: Ints = np.full(num_rows, -1, np.int64)
        self._clock_ms = -1
        self._swept_ms = -1
        self._num_tokens = 0
        self._free = np.arange(1, num_rows)

    def observe(self, ids: Ints, counts: Ints, *, clock_ms: int, step: int) -> Observed:
        """Take a global batch's ids, ascending and distinct, each seen in `counts` tokens.

        No id of the batch loses its row. Where more are new than rows can be had, those with the
        greatest ids go without.
        """
        self._clock_ms = max(self._clock_ms, clock_ms)
        rows = self.idmap.rows_of(ids)
        is_known = rows != FALLBACK_ROW
        self._see(rows[is_known], counts[is_known])
        idle = self._expire()
        new = np.flatnonzero(~is_known & (ids != NO_ID))
        if self._sketch is not None:
            new = new[self._sketch.add(ids[new], counts[new]) >= self._admit_after]
        coldest = self._make_room(len(new), keep=rows[is_known])
        new = new[: len(self._free)]
        rows[new], self._free = self._free[: len(new)], self._free[len(new) :]
        self.idmap.insert(ids[new], rows[new])
        self._see(rows[new], counts[new])
        evicted = np.union1d(idle, coldest)
        self.mark_changed(np.concatenate([rows, evicted]), step=step)
        self._age(int(counts.sum()))
        return Observed(len(new), len(idle), len(coldest), evicted)

    def mark_changed(self, rows: Ints, *, step: int) -> None:
        """Note that a step looked rows up and so may change them."""
        self.changed_steps[rows] = step

    def _see(self, rows: Ints, counts: Ints) -> None:
        self._counts[rows] += counts
        self._last_seen_ms[rows] = self._clock_ms

    def _expire(self) -> Ints:
        ttl_ms = self._idle_ttl_ms
        if not ttl_ms or self._clock_ms - self._swept_ms < max(1, ttl_ms // _SWEEPS_PER_TTL):
            return np.empty(0, np.int64)
        self._swept_ms = self._clock_ms
        is_idle = self._last_seen_ms < self._clock_ms - ttl_ms
        return self._release(np.flatnonzero(is_idle & (self.idmap.row_ids != NO_ID)))

    def _make_room(self, num_new: int, *, keep: Ints) -> Ints:
        num_missing = num_new - len(self._free)
        if num_missing <= 0:
            return np.empty(0, np.int64)
        evictable = self.idmap.row_ids != NO_ID
        evictable[keep] = False
        rows = np.flatnonzero(evictable)
        num_evicted = max(num_missing, self.idmap.num_rows // _EVICTED_PART)
        return self._release(self._coldest(rows, num_evicted))

    def _coldest(self, rows: Ints, num: int) -> Ints:
        """The `num` rows first by (count, last seen, id), in no order."""
        coldest: list[Ints] = []
        # A partition by each key in turn; only those that tie are asked the next.
        for key in (self._counts, self._last_seen_ms, self.idmap.row_ids):
            if num >= len(rows):
                break
            values = key[rows]
            bound = np.partition(values, num - 1)[num - 1]
            coldest.append(rows[values < bound])
            num -= len(coldest[-1])
            rows = rows[values == bound]
        return np.concatenate([*coldest, rows[:num]])

    def _release(self, rows: Ints) -> Ints:
        if len(rows):
            self.idmap.remove(rows)
            self._counts[rows], self._last_seen_ms[rows] = 0, -1
            self._free = np.union1d(self._free, rows)
        return rows

    def _age(self, num_tokens: int) -> None:
        self._num_tokens += num_tokens
        if self._num_tokens >= _TOKENS_PER_ROW * self.idmap.num_rows:
            self._num_tokens = 0
            self._counts >>= 1
            if self._sketch is not None:
                self._sketch.halve()

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """A copy of everything.

        Shapes: `row_ids`, `counts`, `last_seen_ms`, `changed_steps` int64[R]; `pending` int32[4,W],
        the sketch's counters, W = 0 without one; `clocks` int64[3].
        """
        pending = np.zeros((4, 0), np.int32) if self._sketch is None else self._sketch.counters
        return {
            "row_ids": self.idmap.row_ids.copy(),
            "counts": self._counts.copy(),
            "last_seen_ms": self._last_seen_ms.copy(),
            "changed_steps": self.changed_steps.copy(),
            "pending": pending.copy(),
            "clocks": np.array([self._clock_ms, self._swept_ms, self._num_tokens]),
        }

    def load(self, state: dict[str, npt.NDArray[np.generic]]) -> None:
        """Go on from what `state` gave; without counters in it, pending ids begin at 0.

        Raises:
            FreshetError: the rows' ids cannot be: see `IdMap.from_row_ids`.
        """
        self.idmap = IdMap.from_row_ids(state["row_ids"].astype(np.int64))
        self._counts = state["counts"].astype(np.int64)
        self._last_seen_ms = state["last_seen_ms"].astype(np.int64)
        self.changed_steps = state["changed_steps"].astype(np.int64)
        self._clock_ms, self._swept_ms, self._num_tokens = state["clocks"].tolist()
        if self._sketch is not None and state["pending"].size:
            self._sketch.counters = state["pending"].astype(np.int32)
        self._free = np.flatnonzero(self.idmap.row_ids[1:] == NO_ID) + 1
