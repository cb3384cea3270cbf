"""The room's commands: topics, replay, send, heartbeat, dead."""

from __future__ import annotations

import functools
import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, ParamSpec

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ingest.adapters.catalog import open_log
from ingest.events import Heartbeat, decode_record
from ingest.producer import EventProducer
from ingest.replay import ReplayConfig, ReplayProgress, replay
from ingest.runtime.errors import FreshetError
from ingest.runtime.kafka import create_topics, read_all, topic_partitions
from ingest.runtime.service import StopSignal, serve_metrics
from ingest.runtime.settings import read_settings
from ingest.runtime.topics import EVENTS_DEAD
from ingest.settings import IngestSettings

app = typer.Typer(no_args_is_help=True, help="Bring events in.")
topics = typer.Typer(no_args_is_help=True, help="The topic table.")
dead = typer.Typer(no_args_is_help=True, help="What was refused.")
app.add_typer(topics, name="topics")
app.add_typer(dead, name="dead")

_errors = Console(stderr=True)
_Arguments = ParamSpec("_Arguments")
_SHOWN_BYTES = 200


def _speaking_plainly(command: Callable[_Arguments, None]) -> Callable[_Arguments, None]:
    """An error a person can act on ends a command with one message and status 1."""

    @functools.wraps(command)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        # Whatever the client library logs about a lost broker comes to us as an error, too.
        logging.getLogger("kafka").setLevel(logging.CRITICAL)
        try:
            command(*args, **kwargs)
        except FreshetError as error:
            _errors.print(f"[red]error:[/red] {error.primary}", highlight=False)
            for line in filter(None, (error.detail, error.hint and f"hint: {error.hint}")):
                _errors.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(1) from error

    return run


def _producer(settings: IngestSettings) -> EventProducer:
    return EventProducer(
        settings.bootstrap, delivery_timeout_seconds=settings.delivery_timeout_seconds
    )


@topics.command("create")
@_speaking_plainly
def topics_create(
    partitions: Annotated[int | None, typer.Option(help="Partitions of keyed topics.")] = None,
) -> None:
    """Create what is missing of the topic table; what is there stays as it is."""
    settings = read_settings(IngestSettings)
    create_topics(settings.bootstrap, partitions or settings.num_partitions)
    topics_list()


@topics.command("list")
@_speaking_plainly
def topics_list() -> None:
    """Show topics and their partition counts."""
    for name, count in topic_partitions(read_settings(IngestSettings).bootstrap).items():
        typer.echo(f"{name}\t{count}")


@app.command("replay")
@_speaking_plainly
def replay_command(
    source: Annotated[str, typer.Argument(help="ml-100k, synthetic[:name=value,...] or a file.")],
    skip: Annotated[int, typer.Option(help="Rows left out at the beginning.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Rows to send; all without it.")] = None,
    speed: Annotated[
        str, typer.Option(help="max, or how many times faster than it happened.")
    ] = "max",
    rate: Annotated[float | None, typer.Option(help="Events per second instead.")] = None,
    flush_after_ms: Annotated[
        int | None, typer.Option(help="Move the clocks this far beyond the last event.")
    ] = None,
    restart: Annotated[bool, typer.Option(help="Forget earlier progress.")] = False,
    state_directory: Annotated[Path | None, typer.Option(help="Where progress is kept.")] = None,
) -> None:
    """Send a log through the door in event-time order; run again, it resumes."""
    settings = read_settings(IngestSettings)
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
    log = open_log(source, settings.cache_directory)
    with _bar() as bar, _producer(settings) as producer:
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
        console=_errors,
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
@_speaking_plainly
def send(
    event: Annotated[str, typer.Argument(help="One event as JSON; - reads standard input.")] = "-",
) -> None:
    """Check one event and send it."""
    raw = sys.stdin.buffer.read().strip() if event == "-" else event.encode()
    record = decode_record(raw)
    with _producer(read_settings(IngestSettings)) as producer:
        if isinstance(record, Heartbeat):
            producer.heartbeat_all(record.heartbeat_ms)
        else:
            producer.send_raw(b"%d" % record.user_id, raw)
    typer.echo("sent")


@app.command("heartbeat")
@_speaking_plainly
def heartbeat(
    every_seconds: Annotated[float, typer.Option(min=0.1, help="Time between two.")] = 1.0,
) -> None:
    """For live use: keep moving every partition's clock to now, until stopped."""
    stop = StopSignal().install()
    with _producer(read_settings(IngestSettings)) as producer:
        while not stop.wait(every_seconds):
            producer.heartbeat_all(int(time.time() * 1000))
            producer.settle()


@dead.command("list")
@_speaking_plainly
def dead_list(
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 20,
) -> None:
    """Show the newest dead letters: source, reason, detail and the first bytes."""
    records = read_all(read_settings(IngestSettings).bootstrap, EVENTS_DEAD)
    typer.echo(f"{len(records)} dead letters")
    for record in records[-limit:]:
        headers = {name: value.decode(errors="replace") for name, value in record.headers}
        typer.echo(
            f"{record.offset}\t{headers.get('source', '')}\t{headers.get('reason', '')}\t"
            f"{headers.get('detail', '')}\t{record.value[:_SHOWN_BYTES]!r}"
        )
