"""`freshet`: the one command line, each room's verbs below it."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ingest.cli import app as ingest_app
from ingest.runtime.errors import FreshetError

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
app.add_typer(ingest_app, name="ingest")


@app.command()
def demo(
    data: Annotated[str, typer.Option(help="ml-100k, synthetic, or a path to a log.")] = "ml-100k",
    events: Annotated[int, typer.Option(help="How many events of it; 0 for all.")] = 0,
    speed: Annotated[str, typer.Option(help="max, or a factor on the log's own pace.")] = "max",
    directory: Annotated[
        Path | None, typer.Option(help="Wiped at the start; build/demo without it.")
    ] = None,
) -> None:
    """Run the whole loop on real events and print what came of it."""
    from deploy.demo.flow import run_demo
    from deploy.demo.options import DemoOptions

    console = Console()
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.default_int_handler)  # as Ctrl-C: stop the services first
    try:
        options = DemoOptions(data=data, events=events, speed=speed)
        if directory is not None:
            options = replace(options, directory=directory)
        summary = run_demo(options, console)
    except FreshetError as error:
        # Not as markup: a log's end may hold brackets.
        for text in filter(None, (error.primary, error.detail, error.hint)):
            console.print(text, markup=False, highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("stopped; nothing is left running")
        sys.exit(130)
    if not summary["conservation_ok"] or summary.get("planted_differs"):
        console.print("[bold red]the conservation law does not hold[/]")
        sys.exit(1)


@app.command()
def doctor() -> None:
    """Check this machine and name the fix for what is missing."""
    from deploy.doctor import main

    sys.exit(main())


if __name__ == "__main__":
    app()
