"""`dead ls | show | redrive`: what was refused."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from dataclasses import asdict
from typing import Annotated

import typer

from ingest.cli.plain import open_producer, speaking_plainly
from ingest.dead_letters import DeadLetter, Selection, read_dead_letters, redrive
from ingest.runtime.errors import FreshetError
from ingest.runtime.settings import read_settings
from ingest.settings import IngestSettings

dead = typer.Typer(no_args_is_help=True, help="What was refused.")

_SHOWN_BYTES = 120

Reasons = Annotated[list[str] | None, typer.Option("--reason", help="Only this; may be repeated.")]
Source = Annotated[str, typer.Option(help="Only where it stood in: events/2, gateway/app.")]
FirstOffset = Annotated[int, typer.Option(min=0, help="Only from this offset on.")]
LastOffset = Annotated[int | None, typer.Option(min=0, help="Only up to this offset.")]


def _selected(
    reasons: list[str] | None, source: str, first_offset: int, last_offset: int | None
) -> list[DeadLetter]:
    selection = Selection(
        reasons=frozenset(reasons or ()),
        source_prefix=source,
        first_offset=first_offset,
        last_offset=last_offset,
    )
    letters = read_dead_letters(read_settings(IngestSettings).bootstrap)
    return [letter for letter in letters if selection.holds(letter)]


@dead.command("ls")
@speaking_plainly
def dead_ls(
    reason: Reasons = None,
    source: Source = "",
    first_offset: FirstOffset = 0,
    last_offset: LastOffset = None,
    newest: Annotated[int, typer.Option(min=0, help="So many are shown.")] = 10,
) -> None:
    """Count dead letters by reason and show the newest: offset, reason, source, first bytes."""
    letters = _selected(reason, source, first_offset, last_offset)
    typer.echo(f"{len(letters)} dead letters")
    for name, count in Counter(letter.reason for letter in letters).most_common():
        typer.echo(f"{count:8}  {name}")
    for letter in letters[len(letters) - newest :] if newest < len(letters) else letters:
        shown = letter.value[:_SHOWN_BYTES]
        typer.echo(f"{letter.offset}\t{letter.reason}\t{letter.source}\t{shown!r}")


@dead.command("show")
@speaking_plainly
def dead_show(
    offset: Annotated[int, typer.Argument(min=0, help="As `dead ls` shows it.")],
    raw: Annotated[bool, typer.Option("--raw", help="Only the bytes, as they are.")] = False,
) -> None:
    """Show one dead letter whole."""
    found = _selected(None, "", offset, offset)
    if not found:
        raise FreshetError(
            "no such dead letter", detail=f"events.dead has no offset {offset}.", hint="dead ls"
        )
    (letter,) = found
    if raw:
        sys.stdout.buffer.write(letter.value)
        return
    arrived = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(letter.arrival_ms / 1000))
    rows = {
        "offset": letter.offset,
        "arrived": arrived,
        "reason": letter.reason,
        "detail": letter.detail,
        "source": letter.source,
        "bytes": f"{letter.num_bytes}, {len(letter.value)} of them kept",
        "an event by now": "no" if letter.event() is None else "yes",
    }
    for name, value in rows.items():
        typer.echo(f"{name:16}{value}")
    typer.echo(letter.value.decode(errors="backslashreplace"))


@dead.command("redrive")
@speaking_plainly
def dead_redrive(
    reason: Reasons = None,
    source: Source = "",
    first_offset: FirstOffset = 0,
    last_offset: LastOffset = None,
) -> None:
    """Send dead letters that are events by now to `events` again, each once.

    What was sent is noted in FRESHET_INGEST_STATE_DIRECTORY: on another machine it counts as unsent.
    """
    letters = _selected(reason, source, first_offset, last_offset)
    settings = read_settings(IngestSettings)
    with open_producer(settings) as producer:
        summary = redrive(letters, producer, settings.state_directory)
    typer.echo(json.dumps(asdict(summary)))
