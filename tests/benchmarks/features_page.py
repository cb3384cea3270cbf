"""The page of figures a run of the benchmark leaves in the room."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks.figures import Figure

PAGE = Path(__file__).parents[2] / "features" / "BENCH.md"


def write_page(figures: Sequence[Figure], microseconds: Mapping[str, float]) -> None:
    """Write the figures, and where an event's CPU time goes."""
    lines = [
        "# What building sequences costs",
        "",
        (
            f"Written by `make bench-features` on {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, "
            f"load average {os.getloadavg()[2]:.1f}."
        ),
        "",
        "| | measured | target |",
        "|---|---:|---:|",
        *[
            f"| {f.name} | {f.measured:,.4g} | {'>=' if f.least else '<='} {f.target:,.4g} |"
            for f in figures
        ],
        "",
        "Where an event's CPU time goes, microseconds, by thread; what starting takes is not in it:",
        "",
        "| | us |",
        "|---|---:|",
        *[f"| {name} | {value:.1f} |" for name, value in microseconds.items()],
    ]
    PAGE.write_text("\n".join(lines) + "\n")
