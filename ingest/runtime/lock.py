"""One process at a time in a directory."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import TextIO

from ingest.runtime.errors import ConfigError


def lock_directory(directory: Path, *, hint: str) -> TextIO:
    """Hold a directory until the file returned is closed or this process dies; made if missing.

    Args:
        directory: what to hold.
        hint: what to do when another process holds it.

    Raises:
        ConfigError: another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = (directory / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise ConfigError(
            "directory in use", detail=f"Another process holds {directory}.", hint=hint
        ) from error
    return lock
