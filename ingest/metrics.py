"""Every metric of the room."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

EVENTS_ACKNOWLEDGED = Counter(
    "freshet_ingest_events_acknowledged_total", "Records of topic events the broker has confirmed."
)
DEAD = Counter(
    "freshet_ingest_dead_total", "Records refused at the door, now in events.dead.", ["reason"]
)
HEARTBEATS = Counter("freshet_ingest_heartbeats_total", "Heartbeat records sent.")
DELIVERY_FAILURES = Counter(
    "freshet_ingest_delivery_failures_total", "Records not confirmed when their producer closed."
)
IN_FLIGHT = Gauge("freshet_ingest_in_flight", "Records sent and not yet confirmed.")
REPLAY_ROW = Gauge("freshet_ingest_replay_row", "Next row of the log being replayed.", ["log"])
REPLAY_EVENT_TIME = Gauge(
    "freshet_ingest_replay_event_timestamp_seconds",
    "Event time of the last row sent, seconds since 1970.",
    ["log"],
)
GATEWAY_REQUESTS = Counter(
    "freshet_ingest_gateway_requests_total", "Requests to POST /events answered.", ["status"]
)
GATEWAY_EVENTS = Counter(
    "freshet_ingest_gateway_events_total", "Events of answered requests.", ["verdict"]
)
GATEWAY_SECONDS = Histogram(
    "freshet_ingest_gateway_delivery_duration_seconds",
    "From a request's body to the broker's confirmation of all its records.",
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
GATEWAY_HELD = Gauge(
    "freshet_ingest_gateway_held_bytes", "Bytes of requests that are not answered yet."
)
