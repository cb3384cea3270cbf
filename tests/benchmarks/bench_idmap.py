"""The id map against its target: `python -m tests.benchmarks.bench_idmap`.

One core, a million ids in a table of as many rows. Lookups are batches of random known ids, twice
as large as a full batch of the smallest recipe, and half of another batch are unknown. Admission is measured
with every id new: into a table with room, and into a full one, where each new id needs another's row.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

from tests.benchmarks.figures import Figure, Report
from trainer.idmap import IdMap, Ints
from trainer.row_allocator import RowAllocator

NUM_IDS = 1_000_000
BATCH = 8_192
NUM_BATCHES = 122


def rate(num: int, work: Callable[[], object]) -> float:
    """How many of `num` a CPU-second, the best of three."""
    best = min(_cpu_seconds(work) for _ in range(3))
    return num / best


def _cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def lookups(idmap: IdMap, ids: Ints) -> float:
    """Lookups a CPU-second, batch by batch."""
    batches = np.array_split(ids, len(ids) // BATCH)
    return rate(len(ids), lambda: [idmap.rows_of(batch) for batch in batches])


def admissions(rows: RowAllocator, first_id: int, *, step: int) -> tuple[float, float]:
    """New ids a CPU-second, and the longest batch in CPU-seconds."""
    longest = total = 0.0
    ones = np.ones(BATCH, np.int64)
    for index in range(NUM_BATCHES):
        ids = first_id + (np.arange(BATCH) + index * BATCH) * 7
        started = time.process_time()
        rows.observe(ids, ones, clock_ms=step + index, step=step + index)
        spent = time.process_time() - started
        longest, total = max(longest, spent), total + spent
    return NUM_BATCHES * BATCH / total, longest


def main() -> int:
    report = Report("idmap", ids=NUM_IDS, batch=BATCH)
    random = np.random.default_rng(0)
    ids = random.integers(0, 2**63, NUM_IDS)
    idmap = IdMap(NUM_IDS + 1)
    idmap.insert(ids, np.arange(1, NUM_IDS + 1))
    asked = random.permutation(ids)
    half = np.where(random.random(NUM_IDS) < 0.5, asked, random.integers(0, 2**63, NUM_IDS))
    report.add(Figure(name="lookups/s, known ids", measured=lookups(idmap, asked), target=5e6))
    report.add(Figure(name="lookups/s, half unknown", measured=lookups(idmap, half), target=5e6))
    order, sorted_ids = np.sort(ids), random.permutation(ids)
    searched = rate(NUM_IDS, lambda: np.searchsorted(order, sorted_ids))
    report.add(
        Figure(
            name="lookups of known ids against np.searchsorted",
            measured=report.figures[0].measured / searched,
            target=1.0,
            note=f"{searched:,.4g}/s",
        )
    )
    rows = RowAllocator(NUM_IDS + 1, admit_after=1, idle_ttl_ms=0, seed=0)
    for name, first_id in (("with room", 0), ("into a full table", 1 << 40)):
        admitted, longest = admissions(rows, first_id, step=first_id)
        note = f"longest batch {longest * 1000:.0f} ms"
        report.add(Figure(name=f"ids admitted/s {name}", measured=admitted, target=1e5, note=note))
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
