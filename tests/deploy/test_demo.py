"""The demo's pure parts: options, tasks, quality over stretches of the stream."""

from __future__ import annotations

import math

import pytest
from rich.console import Console

from deploy.conservation import Audit
from deploy.demo.data import choose_tasks, summary_differs
from deploy.demo.options import DemoOptions
from deploy.demo.quality import curve, last_fifth, ne_summary, stretch
from deploy.demo.report import conservation_summary, render
from features.sequences import Counters
from ingest.runtime.errors import ConfigError
from trainer.ne_log import StepLine


def line(step: int, *, positives: int, loss: float, baseline: float, targets: int = 10) -> StepLine:
    figures: dict[str, float | None] = {
        "num_targets": targets,
        "num_positives": positives,
        "log_loss_sum": loss,
        "predicted_sum": float(positives),
        "baseline_log_loss_sum": baseline,
    }
    return StepLine(
        step=step,
        num_targets=targets,
        total_targets=step * targets,
        clock_ms=step,
        skipped=False,
        tasks={"click": figures},
    )


LINES = [
    line(i, positives=5, loss=10 * math.log(2), baseline=10 * math.log(2)) for i in range(1, 9)
]
LINES += [line(i, positives=5, loss=5 * math.log(2), baseline=8 * math.log(2)) for i in (9, 10)]


@pytest.mark.parametrize("speed", ["fast", "0", "-2x", "x", ""])
def test_a_speed_that_is_neither_max_nor_a_factor_is_refused(speed: str) -> None:
    with pytest.raises(ConfigError, match="SPEED="):
        DemoOptions(speed=speed)


def test_a_speed_is_a_factor_with_or_without_its_x() -> None:
    assert DemoOptions(speed="100x").speed_up() == DemoOptions(speed="100").speed_up() == 100
    assert DemoOptions(speed="max").speed_up() is None


def test_the_tasks_are_those_of_which_a_log_shows_both_classes() -> None:
    assert choose_tasks({"impression": 60, "click": 30, "like": 10}) == ("click", "like")
    assert choose_tasks({"purchase": 980, "return": 20}) == ("purchase",)
    assert choose_tasks({"click": 100}) == ()


def test_the_last_fifth_is_counted_in_targets() -> None:
    assert [each.step for each in last_fifth(LINES)] == [9, 10]


def test_ne_of_the_base_rate_is_one_and_less_where_the_model_knows_more() -> None:
    assert stretch(LINES[:8], "click").ne == pytest.approx(1.0)
    found = ne_summary(LINES)
    assert found["ne"]["click"]["window"] == pytest.approx(0.5)
    assert found["ne_baseline"]["click"]["window"] == pytest.approx(0.8)


def test_a_curve_keeps_every_target_whatever_its_number_of_points() -> None:
    points = curve(LINES, "click", num_points=5)
    assert points.num_targets[-1] == 100
    assert points.model[-1] == pytest.approx(0.5)


def test_counts_that_were_not_planted_are_named() -> None:
    assert summary_differs({"late": 2, "dead": 1}, {"late": 2, "dead": 3}) == [
        "dead: planted 1, found 3"
    ]


def test_the_page_says_what_does_not_hold() -> None:
    audit = Audit(
        counters=Counters(events=3, targets=1),
        events_sent=3,
        events_in_topic=3,
        targets_in_topic=1,
        distinct_targets=1,
        corrections_in_topic=0,
        distinct_corrections=0,
        targets_trained=1,
        corrections_trained=0,
        late_in_topic=0,
        dead_in_topic=0,
        dead_at_door=0,
    )
    answer = {"version": "000000000001", "items": [{"item_id": 1, "score": 0.5}]}
    summary = {
        "data": "test",
        **conservation_summary(audit),
        **ne_summary(LINES),
        "ne_floor": {},
        "events_per_second": 1.0,
        "tokens_per_second": 1.0,
        "freshness_seconds": {"p50": 1.0, "p99": 2.0},
        "versions_published": 1,
        "versions_served": 1,
        "parity_max_abs_error": 0.0,
        "parity_num_scores": 10,
        "seconds": {"total": 1.0},
        "recommendations": {
            "user_id": 1,
            "action": {"action": "click", "item_id": 1},
            "before": answer,
            "after": answer,
        },
    }
    console = Console(width=60, record=True, file=None, quiet=False)
    with console.capture() as captured:
        render(summary, console)
    assert "NO" in captured.get()
    assert "corrections" in captured.get()
    assert "filtered" in captured.get()
    assert "events unaccounted for: 2 != 0" in captured.get()
