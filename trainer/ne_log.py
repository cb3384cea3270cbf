"""The quality of every step as a file of JSON lines, one a step, each step in it once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TextIO

import msgspec

from trainer.quality import Sums, TaskRecord


class StepLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line: `num_targets` of this step, `total_targets` up to and with it.

    `skipped` steps had a loss that was not finite: their targets were neither counted nor learned.
    """

    step: int
    num_targets: int
    total_targets: int
    clock_ms: int
    skipped: bool
    tasks: dict[str, dict[str, float | None]]


def task_figures(sums: Sums, record: TaskRecord) -> dict[str, float | None]:
    """What a line says of a task: the step's sums, and the curves up to and with the step."""
    window = record.window.total()
    return {
        "num_positives": sums.num_positives,
        "log_loss_sum": sums.log_loss_sum,
        "predicted_sum": sums.predicted_sum,
        "baseline_log_loss_sum": sums.baseline_log_loss_sum,
        "ne_lifetime": record.lifetime.ne,
        "ne_window": window.ne,
        "calibration_window": window.calibration,
        "baseline_ne_lifetime": record.lifetime.baseline_ne,
        "baseline_ne_window": window.baseline_ne,
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

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_ne_log(path: Path) -> list[StepLine]:
    """Every complete line of a log, in order."""
    return [line for line, _ in _complete_lines(path)]


class NeLogFollower:
    """Reads a log that is being written; what was read once is not read again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._num_bytes = 0
        self._lines: list[StepLine] = []

    def follow(self) -> list[StepLine]:
        """Every complete line so far; none while there is no log."""
        size = self._path.stat().st_size if self._path.exists() else 0
        if size < self._num_bytes:  # a resumed run took lines back
            self._num_bytes, self._lines = 0, []
        if size > self._num_bytes:
            with self._path.open("rb") as file:
                file.seek(self._num_bytes)
                complete = file.read().rpartition(b"\n")[0]
            texts = complete.splitlines(keepends=True)
            self._lines += [msgspec.json.decode(text, type=StepLine) for text in texts]
            self._num_bytes += len(complete) + (1 if complete else 0)
        return self._lines


def _complete_lines(path: Path) -> list[tuple[StepLine, str]]:
    with path.open(encoding="utf-8") as file:
        return [
            (msgspec.json.decode(text, type=StepLine), text) for text in file if text.endswith("\n")
        ]


def _keep_until(path: Path, step: int) -> None:
    kept = [text for line, text in _complete_lines(path) if line.step <= step]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text("".join(kept), encoding="utf-8")
    temporary.replace(path)
