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

Floats = npt.NDArray[np.float64]


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
    """One task since the run's first target; `segments` are windows of parts of it."""

    window: Window
    lifetime: Sums = Sums()
    segments: dict[str, Window] = msgspec.field(default_factory=dict)

    def add(self, sums: Sums) -> None:
        """Take one step's sums."""
        self.lifetime += sums
        self.window.add(sums)

    def add_segment(self, name: str, sums: Sums) -> None:
        """Take one step's sums of a segment; its window is as many targets of its own."""
        window = self.segments.setdefault(name, Window(self.window.num_targets))
        window.add(sums)


class StepLosses:
    """What one step's targets cost the model and the baseline, to be summed over any of them.

    Shapes: logits, labels, counted (1 where a target is one of the task's), baseline
    (probabilities) [M,tasks].

    Example:
        >>> one = np.array([[1.0]])
        >>> StepLosses(0 * one, one, one, one / 2).sums(0).log_loss_sum == math.log(2)
        True
    """

    def __init__(self, logits: Floats, labels: Floats, counted: Floats, baseline: Floats) -> None:
        self._parts = (
            counted,
            counted * labels,
            counted * (np.logaddexp(0.0, logits) - labels * logits),
            counted * np.exp(-np.logaddexp(0.0, -logits)),
            counted * -np.log(np.where(labels > 0, baseline, 1 - baseline)),
        )

    def sums(self, task: int, members: npt.NDArray[np.bool_] | slice = slice(None)) -> Sums:
        """A task's sums over all targets, or over `members` bool[M]."""
        num_targets, num_positives, *rest = (
            float(part[members, task].sum()) for part in self._parts
        )
        return Sums(int(num_targets), int(num_positives), *rest)
