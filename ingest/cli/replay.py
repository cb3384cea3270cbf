"""`replay`: a log through the door, with progress a person can watch."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ingest.adapters.arrival import Arrival
from ingest.adapters.catalog import open_log
from ingest.adapters.log import EventLog
from ingest.cli.plain import errors, open_producer, speaking_plainly
from ingest.replay import ReplayConfig, ReplayProgress, replay
from ingest.runtime.service import StopSignal, serve_metrics
from ingest.runtime.settings import read_settings
from ingest.settings import IngestSettings


@speaking_plainly
def replay_command(
    source: Annotated[
        str, typer.Argument(help="ml-100k, synthetic[:name=value,...], LAYOUT:PATH or a file.")
    ],
    skip: Annotated[int, typer.Option(help="Rows left out at the beginning.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Rows to send; all without it.")] = None,
    speed: Annotated[
        str, typer.Option(help="max, or how many times faster than it happened.")
    ] = "max",
    rate: Annotated[float | None, typer.Option(help="Events per second instead.")] = None,
    flush_after_ms: Annotated[
        int | None, typer.Option(help="Move the clocks this far beyond the last event.")
    ] = None,
    order: Annotated[
        Literal["time", "file"], typer.Option(help="By event time, or as published.")
    ] = "time",
    late_fraction: Annotated[float, typer.Option(help="So many of the rows arrive late...")] = 0.0,
    late_mean_ms: Annotated[
        float, typer.Option(help="...by an exponential law of this mean...")
    ] = 60_000.0,
    seed: Annotated[int, typer.Option(help="...drawn by this seed.")] = 1,
    restart: Annotated[bool, typer.Option(help="Forget earlier progress.")] = False,
    state_directory: Annotated[Path | None, typer.Option(help="Where progress is kept.")] = None,
) -> None:
    """Send a log through the door in the order of its arrival; run again, it resumes."""
    settings = read_settings(IngestSettings)
    arrival = Arrival(
        order=order, late_fraction=late_fraction, late_mean_ms=late_mean_ms, seed=seed
    )
    config = ReplayConfig(
        state_directory=state_directory or settings.state_directory,
        skip=skip,
        limit=limit,
        speed=_speed(speed),
        events_per_second=rate,
        flush_after_ms=flush_after_ms,
        restart=restart,
    )
    if settings.metrics_port is not None:
        serve_metrics(settings.metrics_port)
    _replay_with_a_bar(
        open_log(source, settings.cache_directory).arriving(arrival), config, settings
    )


def _replay_with_a_bar(log: EventLog, config: ReplayConfig, settings: IngestSettings) -> None:
    stop = StopSignal().install()
    with _bar() as bar, open_producer(settings) as producer:
        task = bar.add_task(log.name, total=None, day="")

        def show(progress: ReplayProgress) -> None:
            day = time.strftime("%Y-%m-%d %H:%M", time.gmtime(progress.event_time_ms / 1000))
            bar.update(task, completed=progress.row, total=progress.end_row, day=day)

        summary = replay(log, producer, config, on_progress=show, stop=stop)
    typer.echo(json.dumps({**asdict(summary), "complete": summary.complete}))


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[day]}"),
        TimeRemainingColumn(),
        console=errors,
        disable=not sys.stderr.isatty(),
    )


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither max nor a number") from None
