"""The quality of targets before they are learned: records of a run, kept by rank 0."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer import metrics
from trainer.auc import ScoreWindow
from trainer.config import TrainerConfig
from trainer.ne_log import task_figures
from trainer.quality import StepLosses, Sums, TaskRecord, Window
from trainer.segments import SEGMENTS, segments_of

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_MEASURES_PER_WINDOW = 16

Figures = dict[str, dict[str, float | None]]


@dataclass(frozen=True, kw_only=True)
class ScoredTargets:
    """M targets of one step, none a correction; `counted` is 1 where one is a task's.

    Shapes: users, history_lengths int64[M]; is_new_item bool[M]; logits, labels, counted, baseline
    (probabilities) [M,tasks].
    """

    users: Ints
    history_lengths: Ints
    is_new_item: npt.NDArray[np.bool_]
    logits: Floats
    labels: Floats
    counted: Floats
    baseline: Floats


class Prequential:
    """Every task's record, and the newest scores."""

    def __init__(self, config: TrainerConfig) -> None:
        self.records = {
            task: TaskRecord(window=Window(config.window_targets))
            for task in config.model.task_names
        }
        self.scores = ScoreWindow(config.auc_window_targets, len(self.records))
        self._stride = max(1, config.auc_window_targets // _MEASURES_PER_WINDOW)

    def observe(self, targets: ScoredTargets, *, num_before: int) -> Figures:
        """Take a step's targets and say every task's figures; none without a target.

        `num_before` targets were before them: the ordering figures cost a sort of their window, so
        they are measured as often as a stride of the stream is full.
        """
        num_targets = len(targets.users)
        if not num_targets:
            return {}
        losses = StepLosses(targets.logits, targets.labels, targets.counted, targets.baseline)
        self.scores.add(targets.users, targets.logits, targets.labels, targets.counted)
        parts = segments_of(targets.history_lengths, targets.is_new_item)
        measure = num_before // self._stride != (num_before + num_targets) // self._stride
        figures: Figures = {}
        for index, (task, record) in enumerate(self.records.items()):
            sums = losses.sums(index)
            record.add(sums)
            for name, members in parts.items():
                if (of_part := losses.sums(index, members)).num_targets:
                    record.add_segment(name, of_part)
            figures[task] = task_figures(sums, record)
            if measure:
                figures[task] |= self.scores.figures(index)
            _publish(task, sums, figures[task])
        return figures


def _publish(task: str, sums: Sums, figures: dict[str, float | None]) -> None:
    metrics.examples.labels(task=task).inc(sums.num_targets)
    metrics.positives.labels(task=task).inc(sums.num_positives)
    metrics.cross_entropy_nats.labels(task=task).inc(sums.log_loss_sum)
    metrics.baseline_cross_entropy_nats.labels(task=task).inc(sums.baseline_log_loss_sum)
    metrics.predicted.labels(task=task).inc(sums.predicted_sum)
    for name, gauge in _GAUGES.items():
        if (value := figures.get(name)) is not None:
            gauge.labels(task=task).set(value)
    for name in SEGMENTS:
        if (value := figures.get(f"ne_{name}")) is not None:
            metrics.segment_ne.labels(task=task, segment=name).set(value)


_GAUGES = {
    "ne_lifetime": metrics.ne_lifetime,
    "ne_window": metrics.ne_window,
    "baseline_ne_lifetime": metrics.baseline_ne_lifetime,
    "calibration_window": metrics.calibration,
    "auc_window": metrics.auc,
    "gauc_window": metrics.gauc,
}
