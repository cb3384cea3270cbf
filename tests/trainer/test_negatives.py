"""Negatives: even over the items that have a row, whatever lies between them."""

from __future__ import annotations

import numpy as np

from trainer.idmap import IdMap
from trainer.negatives import draw_negatives, draw_rows


def test_they_are_a_function_of_seed_and_step() -> None:
    assert np.array_equal(draw_rows(50, 20, seed=3, step=7), draw_rows(50, 20, seed=3, step=7))
    assert not np.array_equal(draw_rows(50, 20, seed=3, step=7), draw_rows(50, 20, seed=3, step=8))
    assert not np.array_equal(draw_rows(50, 20, seed=3, step=7), draw_rows(50, 20, seed=4, step=7))
    assert len(draw_rows(0, 20, seed=0, step=0)) == 0


def test_they_cover_items_evenly_and_nothing_else() -> None:
    ids = np.full(100, -1)
    ids[1:100:3] = np.arange(33)
    ids[2:100:3] = -2 - np.arange(33)  # context tokens
    idmap = IdMap.from_row_ids(ids)
    drawn = [draw_negatives(idmap, 128, seed=0, step=step) for step in range(300)]
    assert {len(rows) for rows in drawn} == {128}
    counts = np.bincount(np.concatenate(drawn), minlength=100)
    assert set(np.flatnonzero(counts)) == set(range(1, 100, 3))
    assert np.abs(counts[1::3] / counts.sum() * 33 - 1).max() < 0.15


def test_there_are_none_where_there_is_no_item() -> None:
    idmap = IdMap(10)
    assert len(draw_negatives(idmap, 5, seed=0, step=0)) == 0
    idmap.insert(np.array([-7]), np.array([3]))
    assert len(draw_negatives(idmap, 5, seed=0, step=0)) == 0
