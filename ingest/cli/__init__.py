"""The room's commands: topics, replay, send, heartbeat, dead, ids."""

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
from ingest.cli.dead import dead
from ingest.cli.ids import ids
from ingest.cli.plain import errors, open_producer, speaking_plainly
from ingest.events import Heartbeat, decode_record
from ingest.replay import ReplayConfig, ReplayProgress, replay
from ingest.runtime.kafka import create_topics, topic_partitions
from ingest.runtime.service import StopSignal, serve_metrics
from ingest.runtime.settings import read_settings
from ingest.settings import IngestSettings

app = typer.Typer(no_args_is_help=True, help="Bring events in.")
topics = typer.Typer(no_args_is_help=True, help="The topic table.")
app.add_typer(topics, name="topics")
app.add_typer(dead, name="dead")
app.add_typer(ids, name="ids")


@topics.command("create")
@speaking_plainly
def topics_create(
    partitions: Annotated[int | None, typer.Option(help="Partitions of keyed topics.")] = None,
) -> None:
    """Create what is missing of the topic table; what is there stays as it is."""
    settings = read_settings(IngestSettings)
    create_topics(settings.bootstrap, partitions or settings.num_partitions)
    topics_list()


@topics.command("list")
@speaking_plainly
def topics_list() -> None:
    """Show topics and their partition counts."""
    for name, count in topic_partitions(read_settings(IngestSettings).bootstrap).items():
        typer.echo(f"{name}\t{count}")


@app.command("replay")
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
    stop = StopSignal().install()
    log = open_log(source, settings.cache_directory).arriving(arrival)
    with _bar() as bar, open_producer(settings) as producer:
        task = bar.add_task(log.name, total=None)

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


@app.command("send")
@speaking_plainly
def send(
    event: Annotated[str, typer.Argument(help="One event as JSON; - reads standard input.")] = "-",
) -> None:
    """Check one event and send it."""
    raw = sys.stdin.buffer.read().strip() if event == "-" else event.encode()
    record = decode_record(raw)
    with open_producer(read_settings(IngestSettings)) as producer:
        if isinstance(record, Heartbeat):
            producer.heartbeat_all(record.heartbeat_ms)
        else:
            producer.send_raw(b"%d" % record.user_id, raw)
    typer.echo("sent")


@app.command("heartbeat")
@speaking_plainly
def heartbeat(
    every_seconds: Annotated[float, typer.Option(min=0.1, help="Time between two.")] = 1.0,
) -> None:
    """For live use: keep moving every partition's clock to now, until stopped."""
    stop = StopSignal().install()
    with open_producer(read_settings(IngestSettings)) as producer:
        while not stop.wait(every_seconds):
            producer.heartbeat_all(int(time.time() * 1000))
            producer.settle()
