"""Reading a log whole, for tests."""

from __future__ import annotations

from ingest.adapters.log import EventLog, Rows
from ingest.events import Event, decode_record


def read_whole(log: EventLog) -> Rows:
    """All rows of a log as one run."""
    whole = Rows([], [], [], {})
    for rows in log.read(0, len(log)):
        whole.refused.update({len(whole.values) + at: why for at, why in rows.refused.items()})
        whole.keys.extend(rows.keys)
        whole.values.extend(rows.values)
        whole.times_ms.extend(rows.times_ms)
    return whole


def events_of(log: EventLog) -> list[Event]:
    """The events of a log; what was refused or is no event fails."""
    rows = read_whole(log)
    assert rows.refused == {}
    events = [decode_record(value) for value in rows.values]
    assert all(isinstance(event, Event) for event in events)
    return events  # type: ignore[return-value]
