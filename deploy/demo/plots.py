"""The demo's pictures: NE over the stream, freshness of every version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

mpl.use("Agg")
_MODEL, _BASELINE, _BASE = "#1f5fa8", "#c0662b", "#777777"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """NE of one task along the stream: targets seen, and the NE of the model and the baseline."""

    num_targets: Sequence[int]
    model: Sequence[float]
    baseline: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class VersionFreshness:
    """How old the events were that one version was the first to serve."""

    version: str
    p50_seconds: float
    max_seconds: float


def plot_ne(curves: Mapping[str, Curve], path: Path, floor: Mapping[str, float]) -> None:
    """Draw a panel a task: windowed NE of the model and the item-rate baseline, base rate at 1.

    `floor` gives, per task, the least NE that is possible, where it is known.
    """
    figure, axes = plt.subplots(
        1, len(curves), figsize=(6.4 * len(curves), 3.8), squeeze=False, layout="constrained"
    )
    for axis, (task, curve) in zip(axes[0], curves.items(), strict=True):
        axis.axhline(1.0, color=_BASE, linestyle=":", label="base rate")
        axis.plot(curve.num_targets, curve.baseline, color=_BASELINE, label="item-rate baseline")
        axis.plot(
            curve.num_targets, curve.model, color=_MODEL, label="HSTU, scored before learning"
        )
        if task in floor:
            axis.axhline(floor[task], color=_MODEL, linestyle="--", label="known floor")
        axis.set(title=task, xlabel="targets seen", ylabel="normalized entropy, windowed")
        axis.set_ylim(top=min(1.3, max([*curve.model, *curve.baseline, 1.0]) + 0.05))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_freshness(versions: Sequence[VersionFreshness], path: Path) -> None:
    """Draw a bar a version: median and worst time from arrival to served."""
    figure, axis = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    places = range(len(versions))
    axis.bar(places, [v.max_seconds for v in versions], color="#b9cfe8", label="oldest event")
    axis.bar(places, [v.p50_seconds for v in versions], color=_MODEL, width=0.5, label="median")
    axis.set_xticks(list(places), [v.version.lstrip("0v") for v in versions], rotation=45)
    axis.set(xlabel="version (step)", ylabel="seconds from arrival to served")
    axis.grid(axis="y", alpha=0.3)
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
