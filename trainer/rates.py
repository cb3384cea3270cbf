"""What was counted of every item: the baseline the model has to beat, and figures it reads itself."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_PRIOR_TARGETS = 20.0


class ItemRates:
    """Targets and positives of each row of the table, since the run's first and lately.

    A rate is drawn to the running global rate g: (positives + 20 g) / (shown + 20). Lately means
    that a target counts 2^-(age / half life), its age being event time before `clock_ms`, the newest
    target's. Reading is a function of the counts alone: a version reads at its own clock, whenever
    it is asked. Scored before updated, on the same targets and at the same moments as the model.

    Shapes: R rows; `shown`, `positives` int64[R,tasks], `recent_shown`, `recent_positives`
    float64[R,tasks] as of `as_of_ms` int64[R] (UTC).

    Example:
        >>> rates = ItemRates(2, 1, half_life_seconds=60.0)
        >>> one = np.ones((1, 1))
        >>> rates.update(np.array([1]), np.array([0]), shown=one, positives=one)
        >>> rates.update(np.array([1]), np.array([60_000]), shown=one, positives=0 * one)
        >>> rates.recent_shown[1].tolist(), rates.recent_positives[1].tolist()
        ([1.5], [0.5])
    """

    def __init__(self, num_rows: int, num_tasks: int, *, half_life_seconds: float) -> None:
        self._half_life_ms = half_life_seconds * 1000
        self.shown: Ints = np.zeros((num_rows, num_tasks), np.int64)
        self.positives: Ints = np.zeros((num_rows, num_tasks), np.int64)
        self.recent_shown: Floats = np.zeros((num_rows, num_tasks))
        self.recent_positives: Floats = np.zeros((num_rows, num_tasks))
        self.as_of_ms: Ints = np.zeros(num_rows, np.int64)
        self._sum_up()

    def _sum_up(self) -> None:
        self.clock_ms = int(self.as_of_ms.max())
        self._num_shown = self.shown.sum(0)
        self._num_positives = self.positives.sum(0)

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """A copy of all counts, by name."""
        return {name: getattr(self, name).copy() for name in _STATE}

    @classmethod
    def from_state(
        cls, state: dict[str, npt.NDArray[np.generic]], *, half_life_seconds: float
    ) -> ItemRates:
        """Go on from what `state` gave."""
        rates = cls(*state["shown"].shape, half_life_seconds=half_life_seconds)
        for name in _STATE:
            setattr(rates, name, state[name].copy())
        rates._sum_up()
        return rates

    def score(self, rows: Ints) -> Floats:
        """Each target's probabilities: rows int64[M] -> [M,tasks]."""
        return self._rates(self.shown[rows], self.positives[rows])

    def figures(self, rows: Ints) -> npt.NDArray[np.float32]:
        """What the model reads: rows int64[M] -> [M,4 tasks].

        Per task the log-odds of the item's rate less those of the global rate, the same of its rate
        lately, and log(1 + shown), whole and lately, brought to the scale of the others.
        """
        overall = self._overall()
        decay = self._decay(rows, self.clock_ms)
        lately = self.recent_shown[rows] * decay
        rate_lately = self._rates(lately, self.recent_positives[rows] * decay)
        columns = [
            _log_odds(self.score(rows)) - _log_odds(overall),
            _log_odds(rate_lately) - _log_odds(overall),
            np.log1p(self.shown[rows]) / 5 - 0.5,
            np.log1p(lately) / 5 - 0.5,
        ]
        return np.concatenate(columns, axis=1).astype(np.float32)

    def update(self, rows: Ints, times_ms: Ints, *, shown: Floats, positives: Floats) -> None:
        """Learn a step's targets and corrections: rows, times_ms int64[M]; both others [M,tasks], 0 or 1.

        A correction is a positive that was shown before. An item never has more positives than
        targets, though a run may begin between the two.
        """
        if not len(rows):
            return
        items = np.unique(rows)
        before = self.positives[items].sum(0)
        np.add.at(self.shown, rows, shown.astype(np.int64))
        np.add.at(self.positives, rows, positives.astype(np.int64))
        self.positives[items] = np.minimum(self.positives[items], self.shown[items])
        self._num_shown = self._num_shown + shown.sum(0).astype(np.int64)
        self._num_positives = self._num_positives + self.positives[items].sum(0) - before
        self._update_recent(items, rows, times_ms, shown, positives)

    def forget(self, rows: Ints) -> None:
        """Begin rows anew, int64[n] distinct; what they counted goes on as row 0's, so no sum changes."""
        if not len(rows):
            return
        for counts in (self.shown, self.positives):
            counts[0] += counts[rows].sum(0)
            counts[rows] = 0
        together = np.append(rows, 0)
        decay = self._decay(together, self.clock_ms)
        for recent in (self.recent_shown, self.recent_positives):
            recent[0] = (recent[together] * decay).sum(0)
            recent[rows] = 0
        self.as_of_ms[rows] = 0
        self.as_of_ms[0] = self.clock_ms

    def _update_recent(
        self, items: Ints, rows: Ints, times_ms: Ints, shown: Floats, positives: Floats
    ) -> None:
        self.clock_ms = max(self.clock_ms, int(times_ms.max()))
        decay = self._decay(items, self.clock_ms)
        weight = np.exp2((times_ms - self.clock_ms) / self._half_life_ms)[:, None]
        self.recent_shown[items] *= decay
        self.recent_positives[items] *= decay
        self.as_of_ms[items] = self.clock_ms
        np.add.at(self.recent_shown, rows, shown * weight)
        np.add.at(self.recent_positives, rows, positives * weight)
        self.recent_positives[items] = np.minimum(
            self.recent_positives[items], self.recent_shown[items]
        )

    def _decay(self, rows: Ints, clock_ms: int) -> Floats:
        decay: Floats = np.exp2((self.as_of_ms[rows] - clock_ms) / self._half_life_ms)[:, None]
        return decay

    def _overall(self) -> Floats:
        overall: Floats = (self._num_positives + 1) / (self._num_shown + 2)
        return overall

    def _rates(self, shown: Ints | Floats, positives: Ints | Floats) -> Floats:
        rates: Floats = (positives + _PRIOR_TARGETS * self._overall()) / (shown + _PRIOR_TARGETS)
        return rates


_STATE = ("shown", "positives", "recent_shown", "recent_positives", "as_of_ms")


def _log_odds(rates: Floats) -> Floats:
    odds: Floats = np.log(rates) - np.log1p(-rates)
    return odds
