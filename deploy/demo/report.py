"""The demo's summary: one dictionary for scripts, one page for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.terminal_theme import DEFAULT_TERMINAL_THEME

from deploy.conservation import Audit

_PAGE_WIDTH = 100


def conservation_summary(audit: Audit) -> dict[str, Any]:
    """The conservation law's terms and whether it held."""
    counters = audit.counters
    return {
        "events_in": counters.events + audit.dead_at_door,
        "targets": counters.targets,
        "corrections": counters.corrections,
        "tokens_folded": counters.folded,
        "duplicates": counters.duplicates,
        "late": counters.late,
        "dead": counters.dead + audit.dead_at_door,
        "filtered": counters.filtered,
        "heartbeats": counters.heartbeats,
        "conservation_ok": not audit.problems(),
        "conservation_problems": audit.problems(),
    }


def render(summary: Mapping[str, Any], console: Console) -> None:
    """Print the summary as a page."""
    parts: Sequence[RenderableType] = [
        _conservation(summary),
        _quality(summary),
        _speed(summary),
        _recommendations(summary["recommendations"]),
    ]
    console.print(Panel(Group(*parts), title=f"freshet demo: {summary['data']}", expand=False))


def save_page(summary: Mapping[str, Any], path: Path) -> None:
    """Write the page as HTML."""
    console = Console(record=True, width=_PAGE_WIDTH, file=StringIO(), force_terminal=True)
    render(summary, console)
    path.write_text(console.export_html(theme=DEFAULT_TERMINAL_THEME), encoding="utf-8")


def _conservation(summary: Mapping[str, Any]) -> Table:
    title = "Conservation: every event is somewhere, once"
    table = Table(title=title, title_justify="left", min_width=len(title))
    table.add_column("events in", justify="right")
    table.add_column(f"{summary['events_in']:,}", justify="right")
    for name in (
        "targets",
        "corrections",
        "tokens_folded",
        "duplicates",
        "late",
        "dead",
        "filtered",
    ):
        table.add_row(name.removeprefix("tokens_"), f"{summary[name]:,}")
    table.add_section()
    table.add_row("holds", "[green]yes[/]" if summary["conservation_ok"] else "[red]NO[/]")
    problems = [*summary["conservation_problems"], *summary.get("planted_differs", [])]
    if problems:
        table.caption = "\n".join(problems)
    elif "planted_differs" in summary:
        table.caption = "every count is the one the generator planted"
    return table


def _quality(summary: Mapping[str, Any]) -> Table:
    table = Table(title="Normalized entropy, scored before learning (base rate = 1)")
    table.title_justify = "left"
    for name in (
        "task", "targets", "lifetime", "last fifth", "item rate, last fifth", "AUC", "GAUC"
    ):  # fmt: skip
        table.add_column(name, justify="left" if name == "task" else "right")
    for task, ne in summary["ne"].items():
        baseline = summary["ne_baseline"][task]
        table.add_row(
            task,
            f"{ne['num_targets']:,}",
            _ratio(ne["lifetime"]),
            _ratio(ne["window"]),
            _ratio(baseline["window"]),
            _ratio(ne["auc"]),
            _ratio(ne["gauc"]),
        )
    floors = summary["ne_floor"]
    if floors:
        table.caption = "known floor: " + ", ".join(f"{t} {v:.4f}" for t, v in floors.items())
    return table


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def _speed(summary: Mapping[str, Any]) -> Table:
    fresh = summary["freshness_seconds"]
    rows = {
        "events per second, end to end": f"{summary['events_per_second']:,.0f}",
        "tokens trained per second": f"{summary['tokens_per_second']:,.0f}",
        "freshness, arrival to served, p50 / p99": f"{_seconds(fresh['p50'])} / "
        f"{_seconds(fresh['p99'])}",
        "versions published / served": f"{summary['versions_published']} / "
        f"{summary['versions_served']}",
        "trainer and server scores differ by": f"{summary['parity_max_abs_error']:.1e} at most, "
        f"of {summary['parity_num_scores']:,}",
        "seconds in all": f"{summary['seconds']['total']:.0f}",
    }
    table = Table(show_header=False, title="Speed and freshness", title_justify="left")
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _recommendations(found: Mapping[str, Any]) -> Table:
    action = found["action"]
    table = Table(
        title=f"User {found['user_id']}, {action['action']} on item {action['item_id']}",
        title_justify="left",
    )
    for name in ("rank", "before", "score", "after", "score"):
        table.add_column(name, justify="right")
    pairs = zip(found["before"]["items"], found["after"]["items"], strict=False)
    for place, (before, after) in enumerate(pairs, start=1):
        table.add_row(
            str(place),
            str(before["item_id"]),
            f"{before['score']:.4f}",
            str(after["item_id"]),
            f"{after['score']:.4f}",
        )
    table.caption = f"versions {found['before']['version']} and {found['after']['version']}"
    return table
