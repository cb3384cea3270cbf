"""The page of figures a run of the benchmark leaves in the room."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks.figures import Figure

PAGE = Path(__file__).parents[2] / "features" / "BENCH.md"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one event costs in a configuration, between the small and the large run."""

    emit_after_seconds: float
    max_targets: int
    num_events: int
    events_per_cpu_second: float
    messages_per_event: float
    microseconds_per_event: dict[str, float]


def write_page(figures: Sequence[Figure], costs: Mapping[str, Cost]) -> None:
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
        "`emit_after` is the knob between freshness and cost; all else is equal, every policy on:",
        "",
        "| | emit_after, s | K | messages an event | events per CPU-second |",
        "|---|---:|---:|---:|---:|",
        *[
            f"| {name} | {c.emit_after_seconds:g} | {c.max_targets} | {c.messages_per_event:.2f} "
            f"| {c.events_per_cpu_second:,.0f} |"
            for name, c in costs.items()
        ],
        "",
        "Where an event's CPU time goes, microseconds, by thread; what starting takes is not in it:",
        "",
        *_work_table(costs),
    ]
    PAGE.write_text("\n".join(lines) + "\n")


def _work_table(costs: Mapping[str, Cost]) -> list[str]:
    labels = dict.fromkeys(
        label for cost in costs.values() for label in cost.microseconds_per_event
    )
    rows = [
        " | ".join(f"{cost.microseconds_per_event.get(label, 0.0):.1f}" for cost in costs.values())
        for label in labels
    ]
    return [
        f"| | {' | '.join(costs)} |",
        f"|---|{'---:|' * len(costs)}",
        *[f"| {label} | {row} |" for label, row in zip(labels, rows, strict=True)],
    ]
