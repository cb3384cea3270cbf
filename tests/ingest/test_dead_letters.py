"""Which dead letters a selection holds, and how their offsets are noted."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ingest.dead_letters import DeadLetter, Selection, ranges_of


def letter(offset: int, reason: str = "late", source: str = "events/0/1") -> DeadLetter:
    return DeadLetter(
        offset=offset,
        arrival_ms=0,
        reason=reason,
        detail="",
        source=source,
        num_bytes=1,
        value=b"x",
    )


@given(st.sets(st.integers(0, 60)))
def test_ranges_hold_the_numbers_they_were_made_of(numbers: set[int]) -> None:
    ranges = ranges_of(numbers)
    held = [number for first, last in ranges for number in range(first, last + 1)]
    assert held == sorted(numbers)
    assert all(a[1] + 1 < b[0] for a, b in pairwise(ranges))


def test_a_selection_needs_every_condition() -> None:
    letters = [letter(0), letter(1, "future"), letter(2, source="events/1/4"), letter(3)]
    selection = Selection(
        reasons=frozenset({"late"}), source_prefix="events/0/", first_offset=1, last_offset=3
    )
    assert [each.offset for each in letters if selection.holds(each)] == [3]
