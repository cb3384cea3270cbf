"""Freshness: when an event was first served."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deploy.freshness import LearnedEvent, ServedVersion, first_served_ms


def version(name: str, at_ms: int, *offsets: int) -> ServedVersion:
    return ServedVersion(version=name, positions=dict(enumerate(offsets)), loaded_at_ms=at_ms)


def event(partition: int, offset: int) -> LearnedEvent:
    return LearnedEvent(arrival_ms=0, partition=partition, message_offset=offset)


def test_an_event_is_served_by_the_first_version_whose_position_is_past_its_message() -> None:
    versions = [version("1", 100, 5, 5), version("2", 200, 9, 5)]
    served = first_served_ms([event(0, 4), event(0, 5), event(1, 4), event(1, 5)], versions)
    assert served[:3].tolist() == [100, 200, 100]
    assert np.isnan(served[3])


def test_a_rollback_does_not_unserve_what_was_served() -> None:
    versions = [version("1", 100, 5), version("2", 200, 9), version("1", 300, 5)]
    assert first_served_ms([event(0, 7)], versions).tolist() == [200]


def test_a_partition_no_version_names_is_never_served() -> None:
    assert np.isnan(first_served_ms([event(3, 0)], [version("1", 100, 5)])).all()


@given(st.lists(st.integers(0, 20), min_size=1, max_size=8), st.integers(0, 20))
def test_it_equals_the_plain_search(offsets: list[int], wanted: int) -> None:
    versions = [version(str(i), i, offset) for i, offset in enumerate(offsets)]
    plain = next((i for i, offset in enumerate(offsets) if offset > wanted), None)
    found = first_served_ms([event(0, wanted)], versions)[0]
    assert (np.isnan(found) and plain is None) or found == plain
