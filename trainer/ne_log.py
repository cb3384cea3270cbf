"""The quality of every step as a file of JSON lines, one a step, each step in it once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TextIO

import msgspec

from ingest.runtime.errors import FreshetError
from trainer.quality import Sums, TaskRecord


class StepLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line: `num_targets` this step learned, `total_targets` up to and with it.

    Corrections are counted beside them: they are learned and never scored into `tasks`.
    A `skipped` step had a loss or gradient that was not finite: it learned none. `tasks` are the
    figures of what was scored, a skipped step's too where its logits were finite: to leave out what
    the model failed on would flatter it. `auc_window` and `gauc_window` are there whenever another
    sixteenth of their window is new.
    """

    step: int
    num_targets: int
    total_targets: int
    clock_ms: int
    skipped: bool
    tasks: dict[str, dict[str, float | None]]
    num_corrections: int = 0
    total_corrections: int = 0


def task_figures(sums: Sums, record: TaskRecord) -> dict[str, float | None]:
    """What a line says of a task: the step's sums, and the curves up to and with the step.

    `ne_<segment>` is the NE of the newest targets of a segment, once it had any.
    """
    window = record.window.total()
    return {
        "num_targets": sums.num_targets,
        "num_positives": sums.num_positives,
        "log_loss_sum": sums.log_loss_sum,
        "predicted_sum": sums.predicted_sum,
        "baseline_log_loss_sum": sums.baseline_log_loss_sum,
        "ne_lifetime": record.lifetime.ne,
        "ne_window": window.ne,
        "calibration_window": window.calibration,
        "baseline_ne_lifetime": record.lifetime.baseline_ne,
        "baseline_ne_window": window.baseline_ne,
        **{f"ne_{name}": part.total().ne for name, part in record.segments.items()},
    }


class NeLog:
    """Appends lines; opened at a step, it first lets go of lines that will be written again."""

    def __init__(self, path: Path, *, step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _keep_until(path, step)
        self._file: TextIO = path.open("a", encoding="utf-8")

    def append(self, line: StepLine) -> None:
        """Write one step's line."""
        self._file.write(msgspec.json.encode(line).decode() + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Return when every line is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_ne_log(path: Path) -> list[StepLine]:
    """Every complete line of a log, in order.

    Raises:
        FreshetError: a line cannot be read.
    """
    return [line for line, _ in _complete_lines(path)]


class NeLogFollower:
    """Reads a log that is being written; what was read once is not read again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._num_bytes = 0
        self._lines: list[StepLine] = []

    def follow(self) -> list[StepLine]:
        """Every complete line so far; none while there is no log.

        Raises:
            FreshetError: a line cannot be read.
        """
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return self._lines
        with file:
            inode = os.fstat(file.fileno()).st_ino
            if inode != self._inode:  # a resumed run takes lines back by writing another file
                self._inode, self._num_bytes, self._lines = inode, 0, []
            file.seek(self._num_bytes)
            complete = [text for text in file if text.endswith(b"\n")]
        self._lines += [_decode(text, self._path) for text in complete]
        self._num_bytes += sum(map(len, complete))
        return self._lines


def _complete_lines(path: Path) -> list[tuple[StepLine, bytes]]:
    with path.open("rb") as file:
        return [(_decode(text, path), text) for text in file if text.endswith(b"\n")]


def _decode(text: bytes, path: Path) -> StepLine:
    try:
        return msgspec.json.decode(text, type=StepLine)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FreshetError(
            "step log not readable",
            detail=f"{path}: {error}; the line is {text[:80]!r}.",
            hint="mend the line, or move the file away: it is then begun anew",
        ) from error


def _keep_until(path: Path, step: int) -> None:
    kept = [text for line, text in _complete_lines(path) if line.step <= step]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(b"".join(kept))
    temporary.replace(path)
