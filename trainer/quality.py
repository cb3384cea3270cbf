"""Prequential quality: what the model said of targets it had not learned yet.

NE, normalized entropy (He et al. 2014, section 3): the mean log loss over the entropy of the mean
label of the same targets; 1 is as good as knowing the base rate, less is better.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

_NUM_BUCKETS = 64
_PRIOR_TARGETS = 20.0

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Sums(msgspec.Struct, frozen=True):
    """What all figures of one task and one stretch of the stream are made of."""

    num_targets: int = 0
    num_positives: int = 0
    log_loss_sum: float = 0.0
    predicted_sum: float = 0.0
    baseline_log_loss_sum: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.num_targets + other.num_targets,
            self.num_positives + other.num_positives,
            self.log_loss_sum + other.log_loss_sum,
            self.predicted_sum + other.predicted_sum,
            self.baseline_log_loss_sum + other.baseline_log_loss_sum,
        )

    @property
    def ne(self) -> float | None:
        """Normalized entropy; None while only one class was seen."""
        return self._normalized(self.log_loss_sum)

    @property
    def baseline_ne(self) -> float | None:
        """The same of the item-rate baseline."""
        return self._normalized(self.baseline_log_loss_sum)

    @property
    def calibration(self) -> float | None:
        """Predicted over observed positives; None while none was observed."""
        return self.predicted_sum / self.num_positives if self.num_positives else None

    def _normalized(self, log_loss_sum: float) -> float | None:
        if not 0 < self.num_positives < self.num_targets:
            return None
        rate = self.num_positives / self.num_targets
        entropy = -(rate * math.log(rate) + (1 - rate) * math.log1p(-rate))
        return log_loss_sum / self.num_targets / entropy


class Window(msgspec.Struct):
    """The newest targets, at least `num_targets` of them once there are so many.

    Kept as a few dozen buckets, so its size does not grow with the number of steps.
    """

    num_targets: int
    buckets: list[Sums] = msgspec.field(default_factory=list)

    def add(self, sums: Sums) -> None:
        """Append a step's sums and let go of buckets that are no longer needed."""
        if self.buckets and self.buckets[-1].num_targets * _NUM_BUCKETS < self.num_targets:
            self.buckets[-1] += sums
        else:
            self.buckets.append(sums)
        held = sum(bucket.num_targets for bucket in self.buckets)
        while held - self.buckets[0].num_targets >= self.num_targets:
            held -= self.buckets.pop(0).num_targets

    def total(self) -> Sums:
        """The window's sums."""
        return sum(self.buckets, Sums())


class TaskRecord(msgspec.Struct):
    """One task since the run's first target."""

    window: Window
    lifetime: Sums = Sums()

    def add(self, sums: Sums) -> None:
        """Take one step's sums."""
        self.lifetime += sums
        self.window.add(sums)


def step_sums(logits: Floats, labels: Floats, baseline: Floats) -> list[Sums]:
    """Each task's sums of one step.

    Shapes: logits, labels, baseline (probabilities) [M,tasks].

    Example:
        >>> one = np.array([[1.0]])
        >>> step_sums(0 * one, one, one / 2)[0].log_loss_sum == math.log(2)
        True
    """
    log_loss = np.logaddexp(0.0, logits) - labels * logits
    predicted = np.exp(-np.logaddexp(0.0, -logits))
    baseline_log_loss = -np.log(np.where(labels > 0, baseline, 1 - baseline))
    return [
        Sums(
            len(labels),
            int(labels[:, task].sum()),
            float(log_loss[:, task].sum()),
            float(predicted[:, task].sum()),
            float(baseline_log_loss[:, task].sum()),
        )
        for task in range(labels.shape[1])
    ]


class ItemRates:
    """The baseline to beat: each item's own positive rate so far, drawn to the global rate.

    rate = (positives + 20 g) / (shown + 20), g the running global rate. Scored before updated, on
    the same targets and at the same moments as the model.

    Shapes: `shown` int64[R], `positives` int64[R,tasks].
    """

    def __init__(self, num_rows: int, num_tasks: int) -> None:
        self.shown: Ints = np.zeros(num_rows, np.int64)
        self.positives: Ints = np.zeros((num_rows, num_tasks), np.int64)
        self._num_shown = 0
        self._num_positives: Ints = np.zeros(num_tasks, np.int64)

    @classmethod
    def from_counts(cls, shown: Ints, positives: Ints) -> ItemRates:
        """Go on from saved counts."""
        rates = cls(*positives.shape)
        rates.shown, rates.positives = shown.copy(), positives.copy()
        rates._num_shown = int(shown.sum())
        rates._num_positives = positives.sum(0)
        return rates

    def score(self, rows: Ints) -> Floats:
        """Each target's probabilities: rows int64[M] -> [M,tasks]."""
        overall = (self._num_positives + 1) / (self._num_shown + 2)
        return (self.positives[rows] + _PRIOR_TARGETS * overall) / (
            self.shown[rows, None] + _PRIOR_TARGETS
        )

    def update(self, rows: Ints, labels: Floats) -> None:
        """Learn a step's targets: rows int64[M], labels [M,tasks]."""
        np.add.at(self.shown, rows, 1)
        np.add.at(self.positives, rows, labels.astype(np.int64))
        self._num_shown += len(rows)
        self._num_positives = self._num_positives + labels.sum(0).astype(np.int64)

    def correct(self, rows: Ints, labels: Floats) -> None:
        """Make positives of targets counted before: rows int64[M], labels [M,tasks], 1 where news.

        An item never has more positives than targets, though a run may begin between the two.
        """
        items = np.unique(rows)
        before = self.positives[items].sum(0)
        np.add.at(self.positives, rows, labels.astype(np.int64))
        self.positives[items] = np.minimum(self.positives[items], self.shown[items, None])
        self._num_positives = self._num_positives + self.positives[items].sum(0) - before
