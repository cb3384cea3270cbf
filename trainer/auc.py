"""How well scores order labels: AUC over all targets, GAUC within each user's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

Scores = npt.NDArray[np.float32] | npt.NDArray[np.float64]

NOT_COUNTED = -1


def auc(scores: Scores, labels: Ints) -> float | None:
    """The probability that a positive scores above a negative, a tie being half; None of one class.

    Shapes: scores, labels (0 or 1) [M].
    """
    return gauc(scores, labels, np.zeros(len(labels), np.int64))


def gauc(scores: Scores, labels: Ints, groups: Ints) -> float | None:
    """The mean AUC of the groups, each weighted by its targets (Zhu et al. 2017, section 4.3).

    Groups of one class have no AUC and no weight; None where there is no other.

    Shapes: scores, labels (0 or 1), groups [M].

    Example:
        >>> scores, labels = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 1, 0, 1])
        >>> auc(scores, labels), gauc(scores, labels, np.array([7, 7, 8, 8]))
        (0.75, 1.0)
    """
    order = np.lexsort((scores, groups))
    scores, labels, groups = scores[order], labels[order], groups[order]
    starts = _starts(groups[1:] != groups[:-1], len(groups))
    ties = _starts((groups[1:] != groups[:-1]) | (scores[1:] != scores[:-1]), len(groups))
    tie_sizes = np.diff(np.append(ties, len(groups)))
    ranks = np.repeat(ties + (tie_sizes + 1) / 2, tie_sizes)  # of equal scores the mean rank
    sizes = np.diff(np.append(starts, len(groups)))
    ranks -= np.repeat(starts, sizes)
    if not len(starts):
        return None
    positives = np.add.reduceat(labels, starts).astype(np.float64)
    negatives = sizes - positives
    wins = np.add.reduceat(ranks * labels, starts) - positives * (positives + 1) / 2
    both = (positives > 0) & (negatives > 0)
    if not bool(both.any()):
        return None
    each = wins[both] / (positives[both] * negatives[both])
    return float(np.average(each, weights=sizes[both]))


class ScoreWindow:
    """The newest `num_targets` targets' scores, exactly, for figures that need them all at once.

    Shapes: `users` int64[n], `logits` float32[n,tasks], `labels` int8[n,tasks]: 0, 1, or
    NOT_COUNTED where a target is none of the task's.
    """

    def __init__(self, num_targets: int, num_tasks: int) -> None:
        self._num_targets = num_targets
        self._users = np.empty(0, np.int64)
        self._logits = np.empty((0, num_tasks), np.float32)
        self._labels = np.empty((0, num_tasks), np.int8)

    def add(self, users: Ints, logits: Floats, labels: Floats, counted: Floats) -> None:
        """Append a step's targets: users [M], the rest [M,tasks], `counted` 0 or 1."""
        labels = np.where(counted > 0, labels, NOT_COUNTED)
        self.load({"users": users, "logits": logits, "labels": labels})

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """All it holds, by name."""
        return {"users": self._users, "logits": self._logits, "labels": self._labels}

    def load(self, state: dict[str, npt.NDArray[np.generic]]) -> None:
        """Append what `state` gave."""
        for name, held in self.state().items():
            joined = np.concatenate([held, state[name].astype(held.dtype)])
            setattr(self, f"_{name}", joined[-self._num_targets :])

    def figures(self, task: int) -> dict[str, float | None]:
        """The task's `auc_window` and, within users, `gauc_window`."""
        counted = self._labels[:, task] != NOT_COUNTED
        logits, users = self._logits[counted, task], self._users[counted]
        labels = self._labels[counted, task].astype(np.int64)
        return {
            "auc_window": auc(logits, labels),
            "gauc_window": gauc(logits, labels, users),
        }


def _starts(differs: npt.NDArray[np.bool_], size: int) -> Ints:
    return np.flatnonzero(np.concatenate([np.ones(min(size, 1), np.bool_), differs]))
