"""In which order the rows of a log arrive: by event time, as published, or late by a known law."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ingest.runtime.errors import ConfigError

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """The disorder of a replay; the same values give the same order.

    Args:
        order: `time`, by event time with ties in the order of the file; or `file`, as published.
        late_fraction: this part of the rows, drawn by `seed`, arrives late.
        late_mean_ms: mean of their lateness, which is exponentially distributed.
        seed: of the draw.

    Raises:
        ConfigError: a value cannot work.
    """

    order: Literal["time", "file"] = "time"
    late_fraction: float = 0.0
    late_mean_ms: float = 60_000.0
    seed: int = 1

    def __post_init__(self) -> None:
        if self.order not in ("time", "file"):
            raise ConfigError("order must be time or file", detail=f"It is {self.order!r}.")
        if not 0 <= self.late_fraction <= 1:
            raise ConfigError(
                "late_fraction must be a fraction", detail=f"It is {self.late_fraction}."
            )
        if not 0 < self.late_mean_ms <= 1e12:
            raise ConfigError("late_mean_ms must be above 0", detail=f"It is {self.late_mean_ms}.")
        if self.seed < 0:
            raise ConfigError("seed must not be negative", detail=f"It is {self.seed}.")
        if self.order == "file" and self.late_fraction:
            raise ConfigError(
                "late_fraction goes with order time only",
                detail="The published order has its own lateness.",
            )

    @property
    def in_time_order(self) -> bool:
        """Whether no row arrives behind a newer one."""
        return self.order == "time" and self.late_fraction == 0

    def label(self) -> str:
        """The values as text: part of what a saved progress is about."""
        return ",".join(f"{name}={value}" for name, value in asdict(self).items())

    def order_of(self, times_ms: Ints, file_rows: Ints) -> Ints:
        """Indices of the rows in the order of arrival.

        Args:
            times_ms: event times, ascending.
            file_rows: each row's place in the published file.
        """
        if self.order == "file":
            return np.argsort(file_rows, kind="stable")
        rng = np.random.default_rng(self.seed)
        late = rng.random(len(times_ms)) < self.late_fraction
        delay_ms = np.where(late, rng.exponential(self.late_mean_ms, len(times_ms)), 0.0)
        return np.argsort(times_ms + delay_ms, kind="stable")
