"""Every metric of the trainer. Counters start at 0 with the process; gauges tell the run's state."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_STEP_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_WRITE_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)

examples = Counter("freshet_trainer_examples_total", "Targets scored, then learned.", ["task"])
positives = Counter("freshet_trainer_positives_total", "Targets with label 1.", ["task"])
cross_entropy_nats = Counter(
    "freshet_trainer_cross_entropy_nats_total", "Prequential log loss.", ["task"]
)
baseline_cross_entropy_nats = Counter(
    "freshet_trainer_baseline_cross_entropy_nats_total",
    "Prequential log loss of the item-rate baseline.",
    ["task"],
)
predicted = Counter(
    "freshet_trainer_predicted_positives_total", "Sum of predicted probabilities.", ["task"]
)
ne_lifetime = Gauge("freshet_trainer_ne_lifetime", "NE since the run's first target.", ["task"])
ne_window = Gauge("freshet_trainer_ne_window", "NE of the newest window of targets.", ["task"])
baseline_ne_lifetime = Gauge(
    "freshet_trainer_baseline_ne_lifetime", "The same of the item-rate baseline.", ["task"]
)
calibration = Gauge(
    "freshet_trainer_calibration", "Predicted over observed positives in the window.", ["task"]
)
auc = Gauge("freshet_trainer_auc", "AUC of the newest targets.", ["task"])
gauc = Gauge("freshet_trainer_gauc", "The same within each user, by his targets.", ["task"])
segment_ne = Gauge(
    "freshet_trainer_segment_ne", "NE of a segment's newest targets.", ["task", "segment"]
)

steps = Counter("freshet_trainer_steps_total", "Optimizer steps by this process.")
skipped_steps = Counter(
    "freshet_trainer_skipped_steps_total", "Steps with a loss or gradient that is not finite."
)
tokens = Counter("freshet_trainer_tokens_total", "Tokens of own batches, history and targets.")
messages = Counter("freshet_trainer_messages_total", "Messages of own batches.")
dead_messages = Counter(
    "freshet_trainer_dead_messages_total", "Records sent to sequences.dead.", ["reason"]
)
forced_releases = Counter(
    "freshet_trainer_forced_releases_total",
    "Messages released before every partition had shown its clock.",
)
step_seconds = Histogram(
    "freshet_trainer_step_seconds", "One step, scoring to learning.", buckets=_STEP_BUCKETS
)
activation_bytes_per_token = Gauge(
    "freshet_trainer_activation_bytes_per_token",
    "What the forward of this process's first step left behind for the backward, by its tokens.",
)
buffered_tokens = Gauge("freshet_trainer_buffered_tokens", "Tokens read and not yet in a batch.")

step = Gauge("freshet_trainer_step", "Optimizer steps since the run's first.")
trained_targets = Gauge("freshet_trainer_trained_targets", "Targets since the run's first.")
trained_corrections = Gauge(
    "freshet_trainer_trained_corrections", "Corrections since the run's first target."
)
position_offset = Gauge("freshet_trainer_position_offset", "Next message to train.", ["partition"])
clock_seconds = Gauge(
    "freshet_trainer_clock_timestamp_seconds",
    "Event time up to which a partition is trained.",
    ["partition"],
)

idmap_ids = Gauge(
    "freshet_trainer_idmap_ids", "Raw ids with a row of their own; of idmap_rows less one at most."
)
idmap_rows = Gauge("freshet_trainer_idmap_rows", "Rows of the table.")
fallback_tokens = Counter(
    "freshet_trainer_idmap_fallback_tokens_total",
    "Tokens whose id had to share the fallback row.",
)

fallback_ratio = Gauge(
    "freshet_trainer_idmap_fallback_ratio", "Their part of the newest own batch's tokens."
)
admitted_ids = Counter("freshet_trainer_idmap_admitted_total", "Ids that got a row.")
evicted_ids = Counter(
    "freshet_trainer_idmap_evicted_total",
    "Ids that lost their row: not seen for long (idle), or the coldest of a full table (full).",
    ["reason"],
)

checkpoint_seconds = Histogram(
    "freshet_trainer_checkpoint_seconds", "Writing a checkpoint.", buckets=_WRITE_BUCKETS
)
export_seconds = Histogram(
    "freshet_trainer_export_seconds", "Writing an export.", buckets=_WRITE_BUCKETS
)
stall_seconds = Histogram(
    "freshet_trainer_stall_seconds",
    "Time training stood still for a write.",
    ["write"],
    buckets=_WRITE_BUCKETS,
)
checkpoint_timestamp = Gauge(
    "freshet_trainer_checkpoint_timestamp_seconds", "When the newest checkpoint was complete."
)
export_timestamp = Gauge(
    "freshet_trainer_export_timestamp_seconds", "When the newest export was complete."
)
