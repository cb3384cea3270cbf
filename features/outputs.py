"""The records a partition lets out: sequences, late events, dead letters."""

from __future__ import annotations

import msgspec

from ingest.events import MAX_EVENT_BYTES
from ingest.runtime.topics import EVENTS_DEAD, EVENTS_LATE

_MAX_DETAIL = 500


class Output(msgspec.Struct, frozen=True, gc=False):
    """One record to write: topic, key, bytes, and its headers where it has any."""

    topic: str
    key: str
    value: bytes
    headers: dict[str, str] | None = None


def late_output(
    user_id: int, time_ms: int, raw: bytes, source: str, *, horizon_ms: int, frontier_ms: int
) -> Output:
    """A late event with how late it is, behind the horizon or else behind the user's frontier."""
    behind_horizon = time_ms < horizon_ms
    headers = {
        "reason": "behind_horizon" if behind_horizon else "behind_frontier",
        "late_ms": str((horizon_ms if behind_horizon else frontier_ms + 1) - time_ms),
        "source": source,
    }
    return Output(EVENTS_LATE, str(user_id), raw, headers)


def dead_output(raw: bytes, source: str, reason: str, detail: str) -> Output:
    """A dead letter with its reason."""
    # Header text is ASCII: a detail can quote any character of a hostile record.
    headers = {"reason": reason, "detail": ascii(detail)[1:-1][:_MAX_DETAIL], "source": source}
    # With its headers a record just under Kafka's limit would be over it.
    return Output(EVENTS_DEAD, source, raw[:MAX_EVENT_BYTES], headers)
