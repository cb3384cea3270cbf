"""What every command shares: errors a person can read, and the producer."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec

import typer
from rich.console import Console

from ingest.producer import EventProducer
from ingest.runtime.errors import FreshetError
from ingest.settings import IngestSettings

errors = Console(stderr=True)
_Arguments = ParamSpec("_Arguments")


def speaking_plainly(command: Callable[_Arguments, None]) -> Callable[_Arguments, None]:
    """An error a person can act on ends a command with one message and status 1."""

    @functools.wraps(command)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        # Whatever the client library logs about a lost broker comes to us as an error, too.
        logging.getLogger("kafka").setLevel(logging.CRITICAL)
        try:
            command(*args, **kwargs)
        except FreshetError as error:
            errors.print(f"[red]error:[/red] {error.primary}", highlight=False)
            for line in filter(None, (error.detail, error.hint and f"hint: {error.hint}")):
                errors.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(1) from error

    return run


def open_producer(settings: IngestSettings) -> EventProducer:
    """A producer as the settings say."""
    return EventProducer(
        settings.bootstrap, delivery_timeout_seconds=settings.delivery_timeout_seconds
    )
