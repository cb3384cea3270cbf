"""Partitions are spread evenly over tasks, whatever Flink's hash does with small numbers."""

from __future__ import annotations

from collections import Counter

import pytest

from features.placement import (
    operator_key_group,
    operator_keys,
    task_of,
    window_key_group,
    window_keys,
)

# As org.apache.flink.runtime.state.KeyGroupRangeAssignment.assignToKeyGroup answered for a Row of
# one Integer and for a BinaryRowData of one INT.
MEASURED = {
    0: (33, 102),
    1: (44, 94),
    2: (97, 93),
    3: (104, 112),
    7: (17, 4),
    1_000: (5, 112),
    12_345: (80, 91),
    2**31 - 1: (59, 66),
}


@pytest.mark.parametrize(("key", "groups"), MEASURED.items())
def test_key_groups_are_those_flink_computes(key: int, groups: tuple[int, int]) -> None:
    assert (operator_key_group(key), window_key_group(key)) == groups


@pytest.mark.parametrize("num_partitions", [1, 2, 3, 4, 6, 12, 16, 64])
def test_tasks_whose_number_divides_the_partitions_have_equally_many(num_partitions: int) -> None:
    for keys, key_group in (
        (operator_keys(num_partitions), operator_key_group),
        (window_keys(num_partitions), window_key_group),
    ):
        assert [key % num_partitions for key in keys] == list(range(num_partitions))
        for parallelism in range(1, num_partitions + 1):
            loads = Counter(task_of(key_group(key), parallelism) for key in keys)
            counts = [loads[task] for task in range(parallelism)]
            uneven = num_partitions % parallelism > 0
            assert max(counts) - min(counts) <= 2 * uneven
