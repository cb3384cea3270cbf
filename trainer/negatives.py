"""Which rows a step contrasts its positives with."""

from __future__ import annotations

import numpy as np

from trainer.idmap import IdMap, Ints

_MAX_ROUNDS = 64


def draw_negatives(idmap: IdMap, num_draws: int, *, seed: int, step: int) -> Ints:
    """Rows of items drawn uniformly, so never the fallback row, a context token's or a free one.

    Drawn again where there is no item; fewer than `num_draws`, or none, where items are very rare
    among the rows.
    """
    drawn = np.empty(0, np.int64)
    for round_ in range(_MAX_ROUNDS):
        rows = draw_rows(idmap.end_row - 1, num_draws, seed=seed + (round_ << 40), step=step)
        drawn = np.concatenate([drawn, rows[idmap.row_ids[rows] >= 0]])[:num_draws]
        if len(drawn) == num_draws or not len(rows):
            break
    return drawn


def draw_rows(num_rows: int, num_draws: int, *, seed: int, step: int) -> Ints:
    """Rows 1..num_rows drawn uniformly by a hash of seed, step and index; none where there is no row.

    The hash is splitmix64's finalizer (Steele et al. 2014, figure 15).
    """
    if not num_rows:
        return np.empty(0, np.int64)
    with np.errstate(over="ignore"):
        mixed = np.arange(num_draws, dtype=np.uint64) + np.uint64(step) * np.uint64(num_draws)
        mixed = (mixed + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return (mixed % np.uint64(num_rows)).astype(np.int64) + 1
