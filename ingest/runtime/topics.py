"""The topic table: every topic's name, key, retention, owner and readers."""

from __future__ import annotations

from dataclasses import dataclass, field

EVENTS = "events"
EVENTS_LATE = "events.late"
EVENTS_DEAD = "events.dead"
SEQUENCES = "sequences"
SEQUENCES_DEAD = "sequences.dead"
SNAPSHOTS = "snapshots"


@dataclass(frozen=True, kw_only=True)
class Topic:
    """One row of the table.

    `partitioned` topics share one partition count, so that a user's events and sequences lie in
    the partition of the same number; the others have a single partition.
    """

    name: str
    key: str
    value: str
    owner: str
    readers: tuple[str, ...]
    partitioned: bool
    settings: dict[str, str] = field(default_factory=dict)


# Event-time logs are replayed long after they happened: deletion by age would eat them.
_KEEP = {"retention.ms": "-1"}

TOPICS: tuple[Topic, ...] = (
    Topic(
        name=EVENTS,
        key="user id, decimal text",
        value="Event or Heartbeat, JSON (ingest.events)",
        owner="ingest",
        readers=("features",),
        partitioned=True,
        # The broker's clock stamps arrival: monotone per partition, the base of freshness and of
        # the bound on events from the future.
        settings={**_KEEP, "message.timestamp.type": "LogAppendTime"},
    ),
    Topic(
        name=EVENTS_LATE,
        key="user id, decimal text",
        value="the late event's original bytes; header late_ms",
        owner="features",
        readers=(),
        partitioned=False,
        settings=_KEEP,
    ),
    Topic(
        name=EVENTS_DEAD,
        key="source, as topic/partition/offset, log/row or gateway/producer",
        value="original bytes; headers reason, detail, source, from ingest also num_bytes",
        owner="ingest, features",
        readers=(),
        partitioned=False,
        settings=_KEEP,
    ),
    Topic(
        name=SEQUENCES,
        key="user id, decimal text",
        value="Sequence, Correction or Progress, binary (features.sequences)",
        owner="features",
        readers=("trainer", "publisher.serving"),
        partitioned=True,
        settings=_KEEP,
    ),
    Topic(
        name=SEQUENCES_DEAD,
        key="source, as topic/partition/offset",
        value="original bytes; headers reason, detail, source",
        owner="trainer",
        readers=(),
        partitioned=False,
        settings=_KEEP,
    ),
    Topic(
        name=SNAPSHOTS,
        key="model name",
        value="Announcement, JSON (publisher.snapshots)",
        owner="publisher",
        readers=("publisher.serving",),
        partitioned=False,
        settings={"cleanup.policy": "compact"},
    ),
)
