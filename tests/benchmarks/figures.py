"""A measured figure against its target, and the report a benchmark ends with."""

from __future__ import annotations

import json
import platform
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BUILD = Path(__file__).parents[2] / "build"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured figure and its target; `least` says which side of it is good.

    Without a target it is only told; `runs` are what it is the median of.
    """

    name: str
    measured: float
    target: float | None
    least: bool = True
    note: str = ""
    runs: tuple[float, ...] = ()

    @classmethod
    def median(
        cls, *, name: str, runs: list[float], target: float, least: bool = True, note: str = ""
    ) -> Figure:
        """The median of several runs; their number and span stand before the note."""
        span = f"{len(runs)} runs {min(runs):.3g} to {max(runs):.3g}"
        return cls(
            name=name,
            measured=statistics.median(runs),
            target=target,
            least=least,
            note=f"{span}; {note}" if note else span,
            runs=tuple(runs),
        )

    @property
    def met(self) -> bool:
        if self.target is None:
            return True
        return self.measured >= self.target if self.least else self.measured <= self.target

    def line(self) -> str:
        if self.target is None:
            return f"told    {self.name}: {self.measured:,.4g}, no target"
        verdict = "met" if self.met else "MISSED"
        sign = ">=" if self.least else "<="
        note = f"  ({self.note})" if self.note else ""
        return f"{verdict:6}  {self.name}: {self.measured:,.4g}, target {sign} {self.target:,.4g}{note}"


class Report:
    """Prints figures as they come, then writes them down and says the verdict."""

    def __init__(self, name: str, *, directory: str = "bench", **about: Any) -> None:
        self._path = BUILD / directory / f"{name}.json"
        self._about = {"machine": platform.machine(), **about}
        self.figures: list[Figure] = []

    def add(self, figure: Figure) -> None:
        print(figure.line(), flush=True)
        self.figures.append(figure)

    def close(self, **more: Any) -> int:
        """Write the JSON, print the verdict last, and return the exit status."""
        figures = [asdict(figure) | {"met": figure.met} for figure in self.figures]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self._about | more | {"figures": figures}, indent=1)
        self._path.write_text(text + "\n")
        aimed = [figure for figure in self.figures if figure.target is not None]
        num_met = sum(figure.met for figure in aimed)
        passed = num_met == len(aimed) > 0
        print(f"{'PASSED' if passed else 'MISSED'}: {num_met} of {len(aimed)} targets met")
        return 0 if passed else 1
