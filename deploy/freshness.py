"""Freshness: from an event's arrival in Kafka to the first served version that has learned it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class ServedVersion:
    """A version as serving saw it.

    `positions` maps a `sequences` partition to the offset it was trained up to; `loaded_at_ms` is
    the wall clock when requests began to be answered by it.
    """

    version: str
    positions: Mapping[int, int]
    loaded_at_ms: int


@dataclass(frozen=True, kw_only=True)
class LearnedEvent:
    """An event that became a target: when it arrived, and the message that carries it."""

    arrival_ms: int
    partition: int
    message_offset: int


def first_served_ms(
    events: Iterable[LearnedEvent], versions: Sequence[ServedVersion]
) -> npt.NDArray[np.float64]:
    """When each event was first served, in milliseconds; NaN where no version holds it.

    Example:
        >>> event = LearnedEvent(arrival_ms=100, partition=0, message_offset=7)
        >>> old = ServedVersion(version="1", positions={0: 7}, loaded_at_ms=150)
        >>> new = ServedVersion(version="2", positions={0: 8}, loaded_at_ms=200)
        >>> first_served_ms([event], [old, new])
        array([200.])
    """
    ordered = sorted(versions, key=lambda version: version.loaded_at_ms)
    reached: dict[int, list[int]] = {}
    for version in ordered:
        for partition in version.positions:
            reached.setdefault(partition, [])
    for partition, offsets in reached.items():
        highest = 0
        for version in ordered:
            # A rollback serves an older version later: what was learned was served already.
            highest = max(highest, version.positions.get(partition, 0))
            offsets.append(highest)
    served = []
    for event in events:
        offsets = reached.get(event.partition, [])
        index = bisect_right(offsets, event.message_offset)
        served.append(ordered[index].loaded_at_ms if index < len(offsets) else np.nan)
    return np.asarray(served, dtype=np.float64)
