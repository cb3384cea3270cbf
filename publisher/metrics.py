"""The publisher's metrics; those of the server are in publisher.serving.metrics, another process."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

PUBLISHED = Counter("freshet_publisher_published_total", "Versions written and pointed to.")
REFUSED = Counter(
    "freshet_publisher_refused_total", "Hand-overs refused by the sanity check.", ["reason"]
)
SUPERSEDED = Counter(
    "freshet_publisher_superseded_total", "Hand-overs skipped because a newer one was complete."
)
BAD_ANNOUNCEMENTS = Counter(
    "freshet_publisher_bad_announcements_total",
    "Records of this model on the topic that are no announcement, passed over at the start.",
)
ANNOUNCED = Counter(
    "freshet_publisher_announced_total", "Announcements acknowledged by the broker."
)
DROPPED = Counter("freshet_publisher_dropped_total", "Versions removed by retention.")
PUBLISH_SECONDS = Histogram(
    "freshet_publisher_publish_duration_seconds",
    "From reading a hand-over to its announcement.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
STEP = Gauge("freshet_publisher_snapshot_step", "Training step of the version pointed to.")
EVENT_TIMESTAMP = Gauge(
    "freshet_publisher_snapshot_event_timestamp_seconds",
    "Event-time watermark of the version pointed to, Unix seconds.",
)
SNAPSHOT_BYTES = Gauge("freshet_publisher_snapshot_bytes", "Size of the version pointed to.")
VERSIONS = Gauge("freshet_publisher_versions", "Committed versions in the store.")
