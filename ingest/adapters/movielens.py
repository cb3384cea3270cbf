"""MovieLens 100k: 100,000 ratings, read out of a wheel that carries them, never copied."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np

from ingest.adapters.columns import ABSENT, ACTION_CODES, ColumnLog, Columns
from ingest.adapters.ids import HashedIds
from ingest.adapters.log import LogError

NAME = "ml-100k"
NUM_ROWS = 100_000

# The ratings' terms forbid redistribution: they are read where they are published, inside a wheel.
_REQUIREMENT = "recbole==1.2.1"
_WHEEL = "recbole-1.2.1-py3-none-any.whl"
_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_MEMBER = "recbole/dataset_example/ml-100k/ml-100k.inter"
_LIKED = 4.0


def open_movielens(cache_directory: Path) -> ColumnLog:
    """Open the 100,000 ratings in time order, fetching the wheel into the cache when it is not there.

    A rating of 4 or 5 is a `like`, any other a `rate`; the rating itself is in `context`.

    Raises:
        LogError: the wheel cannot be fetched, or is not the one expected.
    """
    wheel = fetch(cache_directory)
    with zipfile.ZipFile(wheel) as archive:
        lines = archive.read(_MEMBER).decode("ascii").splitlines()[1:]
    cells = np.array([line.split("\t") for line in lines], dtype=np.float64)
    rating = cells[:, 2]
    absent = np.full(len(cells), ABSENT, dtype=np.int64)
    columns = Columns(
        user_id=cells[:, 0].astype(np.int64),
        item_id=cells[:, 1].astype(np.int64),
        action=np.where(rating >= _LIKED, ACTION_CODES["like"], ACTION_CODES["rate"]),
        event_time_ms=cells[:, 3].astype(np.int64) * 1000,
        watch_ms=absent,
        duration_ms=absent,
        price_minor=absent,
        rating=rating,
        refused={},
    )
    return ColumnLog("ml", {"source": NAME, "sha256": _SHA256}, columns, HashedIds())


def fetch(cache_directory: Path) -> Path:
    """The wheel's path, after checking its checksum; downloads it by name when it is not there.

    Raises:
        LogError: no pip is to be found, the download failed, or the checksum differs.
    """
    wheel = cache_directory / _WHEEL
    if not wheel.is_file():
        cache_directory.mkdir(parents=True, exist_ok=True)
        _download(cache_directory)
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != _SHA256:
        raise LogError(
            "downloaded file is not the one expected",
            detail=f"{wheel} has sha256 {found}, expected {_SHA256}.",
            hint="delete it and run again",
        )
    return wheel


def _download(cache_directory: Path) -> None:
    failures = []
    for pip in _pips():
        command = [*pip, "download", "--no-deps", "--quiet", "-d", str(cache_directory)]
        try:
            done = subprocess.run(
                [*command, _REQUIREMENT], capture_output=True, text=True, check=False, timeout=300
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            failures.append(f"{' '.join(pip)}: {error}")
            continue
        if done.returncode == 0 and (cache_directory / _WHEEL).is_file():
            return
        failures.append(f"{' '.join(pip)}: {done.stderr.strip()[-300:]}")
    raise LogError(
        f"{_REQUIREMENT} could not be downloaded",
        detail="; ".join(failures) or "No pip was found.",
        hint=f"put {_WHEEL} into {cache_directory}, or replay `synthetic`, which needs no network",
    )


def _pips() -> list[list[str]]:
    """Ways to run pip, likeliest first: a uv environment has none of its own."""
    base = Path(sys.base_prefix) / "bin"
    pythons = [sys.executable, str(base / "python3"), shutil.which("python3")]
    ways = [[python, "-m", "pip"] for python in dict.fromkeys(pythons) if python]
    command = shutil.which("pip3")
    return [*ways, [command]] if command else ways
