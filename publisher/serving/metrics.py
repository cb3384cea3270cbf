"""The server's metrics."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

STEP = Gauge("freshet_serving_version_step", "Training step of the live version.")
EVENT_TIMESTAMP = Gauge(
    "freshet_serving_snapshot_event_timestamp_seconds",
    "Event-time watermark of the live version, Unix seconds.",
)
SWAPS = Counter("freshet_serving_swaps_total", "Versions that went live.")
LOAD_FAILURES = Counter(
    "freshet_serving_load_failures_total", "Versions not loaded; the live one stayed."
)
BAD_ANNOUNCEMENTS = Counter(
    "freshet_serving_bad_announcements_total", "Records of `snapshots` that are no announcement."
)
LOAD_SECONDS = Histogram(
    "freshet_serving_load_duration_seconds",
    "Reading, checking and building a version, until it is live.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
REQUEST_SECONDS = Histogram(
    "freshet_serving_request_duration_seconds",
    "From a request's arrival to its answer.",
    ["route", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
FALLBACK_ROWS = Counter(
    "freshet_serving_fallback_rows_total", "Candidates and history tokens of items without a row."
)
USERS = Gauge("freshet_serving_users", "Users whose history is kept.")
EVICTED_USERS = Counter(
    "freshet_serving_evicted_users_total", "Users dropped at max_users, longest without an event."
)
CORRUPT_MESSAGES = Counter(
    "freshet_serving_corrupt_messages_total", "Records of `sequences` that could not be read."
)
CORRECTIONS = Counter(
    "freshet_serving_corrections_total",
    "Corrections read: applied to a kept token, or of a token or user not kept.",
    ["result"],
)
CLOCK = Gauge(
    "freshet_serving_users_event_timestamp_seconds",
    "Event-time clock up to which histories are current, Unix seconds.",
    ["partition"],
)
