"""NE figures of a run, from the trainer's log of steps."""

from __future__ import annotations

from typing import Any

from deploy.demo.plots import Curve
from trainer.ne_log import StepLine
from trainer.quality import Sums

_LAST_FIFTH = 0.2


def tasks_of(lines: list[StepLine]) -> tuple[str, ...]:
    """The tasks of which both classes were seen."""
    names = dict.fromkeys(name for line in lines for name in line.tasks)
    return tuple(name for name in names if stretch(lines, name).ne is not None)


def stretch(lines: list[StepLine], task: str) -> Sums:
    """A task's sums over some steps."""
    return sum((_sums(line, task) for line in lines if task in line.tasks), Sums())


def last_fifth(lines: list[StepLine]) -> list[StepLine]:
    """The steps that saw the last fifth of the targets."""
    start = lines[-1].total_targets * (1 - _LAST_FIFTH)
    return [line for line in lines if line.total_targets > start]


def ne_summary(lines: list[StepLine]) -> dict[str, dict[str, Any]]:
    """`ne` and `ne_baseline`, each task over the whole run and over the last fifth."""
    model: dict[str, Any] = {}
    baseline: dict[str, Any] = {}
    for task in tasks_of(lines):
        lifetime, window = stretch(lines, task), stretch(last_fifth(lines), task)
        model[task] = {
            "lifetime": lifetime.ne,
            "window": window.ne,
            "calibration_window": window.calibration,
            "auc": _newest(lines, task, "auc_window"),
            "gauc": _newest(lines, task, "gauc_window"),
            "num_targets": lifetime.num_targets,
            "num_positives": lifetime.num_positives,
        }
        baseline[task] = {"lifetime": lifetime.baseline_ne, "window": window.baseline_ne}
    return {"ne": model, "ne_baseline": baseline}


def curve(lines: list[StepLine], task: str, num_points: int = 40) -> Curve:
    """A task's NE along the stream, in `num_points` stretches of equally many targets."""
    total = lines[-1].total_targets
    parts: list[list[StepLine]] = [[] for _ in range(num_points)]
    for line in lines:
        parts[max(0, line.total_targets - 1) * num_points // max(total, 1)].append(line)
    points = [(part[-1].total_targets, stretch(part, task)) for part in parts if part]
    known = [(at, s.ne, s.baseline_ne) for at, s in points]
    kept = [(at, ne, base) for at, ne, base in known if ne is not None and base is not None]
    return Curve(
        num_targets=[at for at, _, _ in kept],
        model=[ne for _, ne, _ in kept],
        baseline=[base for _, _, base in kept],
    )


def _newest(lines: list[StepLine], task: str, figure: str) -> float | None:
    """A figure that only some lines have, by the newest of them."""
    found = (line.tasks[task].get(figure) for line in reversed(lines) if task in line.tasks)
    return next((value for value in found if value is not None), None)


def _sums(line: StepLine, task: str) -> Sums:
    figures = line.tasks[task]
    return Sums(
        num_targets=int(figures["num_targets"] or 0),
        num_positives=int(figures["num_positives"] or 0),
        log_loss_sum=figures["log_loss_sum"] or 0.0,
        predicted_sum=figures["predicted_sum"] or 0.0,
        baseline_log_loss_sum=figures["baseline_log_loss_sum"] or 0.0,
    )
