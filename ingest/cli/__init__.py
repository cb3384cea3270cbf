"""The room's commands: topics, replay, send, heartbeat, dead, ids."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from ingest.cli.dead import dead
from ingest.cli.ids import ids
from ingest.cli.plain import open_producer, speaking_plainly
from ingest.cli.replay import replay_command
from ingest.events import Heartbeat, decode_record
from ingest.runtime.kafka import create_topics, topic_partitions
from ingest.runtime.service import StopSignal
from ingest.runtime.settings import read_settings
from ingest.settings import IngestSettings

app = typer.Typer(no_args_is_help=True, help="Bring events in.")
topics = typer.Typer(no_args_is_help=True, help="The topic table.")
app.command("replay")(replay_command)
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
