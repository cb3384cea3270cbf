"""The comparison every run of the job is judged by sees what is missing, doubled or out of order."""

from __future__ import annotations

import pytest

from features.sequences import Counters
from tests.features.job_runs import Written

RECORDS = [b"first", b"second", b"third"]


def written(records: list[bytes], *, targets: int = 3) -> Written:
    return Written(lanes={("sequences", 0): records}, counters=Counters(targets=targets))


def test_equal_outputs_have_no_differences() -> None:
    assert written(RECORDS).differences(written(list(RECORDS))) == []


@pytest.mark.parametrize(
    "records", [RECORDS[:2], [*RECORDS, b"third"], RECORDS[::-1], [b"first", b"x", b"third"]]
)
def test_missing_doubled_moved_and_changed_records_are_differences(records: list[bytes]) -> None:
    assert len(written(RECORDS).differences(written(records))) == 1
    assert written(RECORDS).digest() != written(records).digest()


def test_counters_and_whole_lanes_count() -> None:
    assert len(written(RECORDS).differences(written(RECORDS, targets=2))) == 1
    assert len(written(RECORDS).differences(Written())) == 2
