"""The id map: rows for ids, one row for those without."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.runtime.errors import ConfigError, FreshetError
from trainer.idmap import FALLBACK_ROW, NO_ID, IdMap

# A context token's id is -2 or less; few ids, so that they come again.
Ids = st.one_of(st.integers(-12, 12), st.integers(-(2**63), 2**63 - 1)).filter(lambda i: i != NO_ID)
NUM_ROWS = 24


@given(st.lists(st.tuples(st.booleans(), st.sets(Ids, max_size=12)), max_size=8), st.data())
def test_it_does_what_a_dictionary_does(
    changes: list[tuple[bool, set[int]]], data: st.DataObject
) -> None:
    idmap, expected = IdMap(NUM_ROWS), dict[int, int]()
    for inserts, ids in changes:
        if inserts:
            free = sorted(set(range(1, NUM_ROWS)) - set(expected.values()))
            rows = data.draw(st.permutations(free))
            new = dict(zip(sorted(ids - expected.keys()), rows, strict=False))
            idmap.insert(np.array([*new], np.int64), np.array([*new.values()], np.int64))
            expected |= new
        else:
            gone = [expected.pop(raw) for raw in sorted(ids & expected.keys())]
            idmap.remove(np.array(gone, np.int64))
        asked = np.array([*ids, *expected, NO_ID], np.int64)
        rows_of = [expected.get(raw, FALLBACK_ROW) for raw in asked.tolist()]
        assert idmap.rows_of(asked).tolist() == rows_of
        loaded = IdMap.from_row_ids(idmap.row_ids)
        assert loaded.rows_of(asked).tolist() == rows_of
        assert (loaded.num_ids, loaded.end_row) == (idmap.num_ids, idmap.end_row)
    assert idmap.num_ids == len(expected)
    assert idmap.end_row == max(expected.values(), default=0) + 1


@pytest.mark.parametrize("stride", [1, 2**20, 2**32, 2**40])
def test_ids_in_steps_find_their_rows_in_a_full_map(stride: int) -> None:
    idmap = IdMap(1 << 16)
    rows = np.arange(1, 1 << 16)
    idmap.insert(rows * stride, rows)
    assert np.array_equal(idmap.rows_of(rows * stride), rows)
    assert not idmap.rows_of(rows * stride + 1 + 2**61).any()


def test_a_map_whose_ids_come_and_go_for_long_does_not_fill_up() -> None:
    idmap, row = IdMap(4), np.array([1])
    for raw in range(1_000):
        idmap.insert(np.array([raw]), row)
        assert idmap.rows_of(np.array([raw - 1, raw])).tolist() == [0, 1]
        idmap.remove(row)


@pytest.mark.parametrize("row_ids", [[-1, 5, 5], [7, -1, 5], [0, 1, 2]])
def test_a_torn_map_is_refused(row_ids: list[int]) -> None:
    with pytest.raises(FreshetError, match="torn"):
        IdMap.from_row_ids(np.array(row_ids))


def test_a_table_of_one_row_is_refused() -> None:
    with pytest.raises(ConfigError, match="1 rows"):
        IdMap(1)
