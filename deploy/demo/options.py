"""What a person can choose about a demo run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deploy.broker import ROOT
from ingest.runtime.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """The demo's choices.

    Args:
        data: `ml-100k`, `synthetic`, or a path to an event log.
        events: how many events of it, 0 for all.
        speed: `max`, or a factor on the log's own pace.
        tail: the share of the events sent live at the end, at half of the measured capacity.
        directory: where the run's files lie; wiped at the start.
    """

    data: str = "ml-100k"
    events: int = 0
    speed: str = "max"
    tail: float = 0.05
    directory: Path = ROOT / "build" / "demo"

    def __post_init__(self) -> None:
        if self.events < 0:
            raise ConfigError("events must not be negative", detail=f"{self.events}.")
        if not 0 < self.tail < 1:
            raise ConfigError("tail must lie between 0 and 1", detail=f"{self.tail}.")
        if self.speed != "max":
            self.speed_up()

    def speed_up(self) -> float | None:
        """The factor on the log's pace; None for as fast as possible.

        Raises:
            ConfigError: it is neither `max` nor a positive number.
        """
        if self.speed == "max":
            return None
        try:
            factor = float(self.speed.rstrip("x"))
        except ValueError:
            factor = 0.0
        if factor <= 0:
            raise ConfigError(
                "speed is neither max nor a factor",
                detail=f"{self.speed!r}.",
                hint="SPEED=max, or SPEED=1000x for a thousand times the log's own pace",
            )
        return factor
