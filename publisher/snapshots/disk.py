"""Writing files so that a crash leaves the old one or the new one."""

from __future__ import annotations

import os
from pathlib import Path

from ingest.runtime.disk import sync
from ingest.runtime.errors import FreshetError


class DiskError(FreshetError):
    """A file could not be written: no space, no right, no directory."""


def write_durably(path: Path, data: bytes) -> None:
    """Put `data` at `path`: written aside, synced, renamed, the directory synced.

    Raises:
        DiskError: the file system refused (retriable).
    """
    aside = path.with_name(f".{path.name}.new")
    try:
        _write_synced(aside, data)
        aside.replace(path)
        sync(path.parent)
    except OSError as error:
        raise DiskError(
            "cannot write",
            detail=f"{path}: {error.strerror}.",
            hint="free space on the disk or correct the directory's rights",
            retriable=True,
        ) from error


def _write_synced(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
