"""Where the job's checkpoints lie, which one to restore from, and which runs may go.

    <directory>/run-000007/<Flink's job id>/chk-41/_metadata
    <directory>/run-000007/savepoint-1f2e3d-.../_metadata

Every start of the job is a run with the next number, so "newest" is a matter of names, not of
clocks. A checkpoint without `_metadata` was never completed.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

_RUN = re.compile(r"run-(\d+)")
_CHECKPOINT = re.compile(r"chk-(\d+)")


def newest_checkpoint(directory: Path) -> Path | None:
    """The newest completed checkpoint or savepoint under `directory`; None where there is none.

    A run's savepoint is its end, hence newer than its checkpoints.
    """
    for run in reversed(_runs(directory)):
        found = _completed(run)
        if found:
            return found[-1]
    return None


def next_run(directory: Path) -> Path:
    """Create and return the directory of a new run."""
    runs = _runs(directory)
    path = directory / f"run-{_number(_RUN, runs[-1]) + 1 if runs else 1:06d}"
    path.mkdir(parents=True)
    return path


def delete_runs_before(run: Path) -> None:
    """Delete the runs before `run`, once it has a completed checkpoint of its own."""
    if _completed(run):
        for older in _runs(run.parent):
            if _number(_RUN, older) < _number(_RUN, run):
                shutil.rmtree(older)


def _runs(directory: Path) -> list[Path]:
    found = [path for path in directory.glob("run-*") if _RUN.fullmatch(path.name)]
    return sorted(found, key=lambda path: _number(_RUN, path))


def _completed(run: Path) -> list[Path]:
    checkpoints = [path.parent for path in run.glob("*/chk-*/_metadata")]
    checkpoints.sort(key=lambda path: _number(_CHECKPOINT, path))
    return checkpoints + sorted(path.parent for path in run.glob("savepoint-*/_metadata"))


def _number(pattern: re.Pattern[str], path: Path) -> int:
    match = pattern.fullmatch(path.name)
    return int(match.group(1)) if match else -1
