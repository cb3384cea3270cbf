"""The id map: rows for ids, one row for those without."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.runtime.errors import ConfigError, FreshetError
from trainer.idmap import FALLBACK_ROW, IdMap

Ids = st.lists(st.integers(0, 2**63 - 1), max_size=30)


def distinct(ids: list[int]) -> np.ndarray:
    return np.unique(np.array(ids, np.int64))


@given(st.lists(Ids, max_size=6), st.integers(2, 40))
def test_it_does_what_a_dictionary_does(batches: list[list[int]], num_rows: int) -> None:
    idmap, expected = IdMap(num_rows), dict[int, int]()
    for ids in batches:
        for raw in sorted(set(ids)):
            if raw not in expected and len(expected) < num_rows - 1:
                expected[raw] = len(expected) + 1
        idmap.admit(distinct(ids))
        rows = idmap.rows_of(np.array(ids, np.int64))
        assert rows.tolist() == [expected.get(raw, FALLBACK_ROW) for raw in ids]
    assert idmap.num_ids == len(expected)


@given(st.lists(Ids, max_size=6), st.integers(2, 40))
def test_saved_and_loaded_it_goes_on_as_before(batches: list[list[int]], num_rows: int) -> None:
    idmap = IdMap(num_rows)
    for ids in batches:
        idmap.admit(distinct(ids))
    loaded = IdMap.from_row_ids(idmap.row_ids())
    more = np.arange(50, dtype=np.int64)
    assert idmap.admit(more) == loaded.admit(more)
    assert idmap.row_ids().tolist() == loaded.row_ids().tolist()


def test_a_full_map_sends_new_ids_to_the_fallback_row() -> None:
    idmap = IdMap(3)
    assert idmap.admit(np.array([4, 8, 9])) == 2
    assert idmap.rows_of(np.array([4, 8, 9])).tolist() == [1, 2, FALLBACK_ROW]


@pytest.mark.parametrize("row_ids", [[5, -1, -1], [-1, -1, 5], [-1, 5, 5]])
def test_a_torn_map_is_refused(row_ids: list[int]) -> None:
    with pytest.raises(FreshetError, match="torn"):
        IdMap.from_row_ids(np.array(row_ids))


def test_a_table_of_one_row_is_refused() -> None:
    with pytest.raises(ConfigError, match="1 rows"):
        IdMap(1)
