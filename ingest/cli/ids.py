"""`ids lookup`: which text became which id."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ingest.adapters.ids import HashedIds
from ingest.cli.plain import speaking_plainly
from ingest.runtime.errors import FreshetError
from ingest.runtime.settings import read_settings
from ingest.settings import IngestSettings

ids = typer.Typer(no_args_is_help=True, help="Text ids and their numbers.")


@ids.callback()
def _group() -> None:
    """Keeps `lookup` a subcommand while it is the only one."""


@ids.command("lookup")
@speaking_plainly
def ids_lookup(
    value: Annotated[str, typer.Argument(help="An id, or a text.")],
    table: Annotated[
        list[Path] | None, typer.Option(help="Where to look; else what replays have written.")
    ] = None,
) -> None:
    """Show the id a text has, or the text an id was made from."""
    found = HashedIds().id_of(value)
    if str(found) != value:
        _show(found, value)
        return
    tables = table or sorted(read_settings(IngestSettings).state_directory.glob("*.ids.jsonl"))
    texts = {text for path in tables if (text := _read(path).text_of(found)) is not None}
    if len(texts) > 1:
        raise FreshetError("texts share a hash", detail=f"{found} is {sorted(texts)}.")
    if not texts:
        raise FreshetError(
            "no text is known for this id",
            detail=f"None of {len(tables)} tables has {found}: it was a number from the beginning, "
            "or its table is elsewhere.",
            hint="name the table with --table",
        )
    _show(found, texts.pop())


def _show(found: int, text: str) -> None:
    # As bytes: a text that was no UTF-8 is shown as it was.
    typer.echo(f"{found}\t{text}".encode(errors="surrogateescape"))


def _read(path: Path) -> HashedIds:
    if not path.is_file():
        raise FreshetError("no such table", detail=f"{path} is not a file.")
    return HashedIds.read(path)
