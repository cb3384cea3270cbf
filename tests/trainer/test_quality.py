"""Identities every NE, calibration and baseline figure must satisfy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchrec.metrics.metrics_namespace import MetricPrefix
from torchrec.metrics.ne import NEMetricComputation

from trainer.ne_log import NeLog, StepLine, read_ne_log
from trainer.quality import StepLosses, Sums, TaskRecord, Window

RANDOM = np.random.default_rng(0)


def logit(probability: np.ndarray) -> np.ndarray:
    return np.log(probability) - np.log1p(-probability)


def sums_of(probabilities: np.ndarray, labels: np.ndarray) -> Sums:
    column = labels[:, None].astype(float)
    ones = np.ones_like(column)
    return StepLosses(logit(probabilities)[:, None], column, ones, ones / 2).sums(0)


LABELS = RANDOM.random(4_000) < 0.2


def test_the_constant_base_rate_has_ne_1_and_calibration_1() -> None:
    sums = sums_of(np.full(len(LABELS), LABELS.mean()), LABELS)
    assert sums.ne == pytest.approx(1.0, abs=1e-12)
    assert sums.calibration == pytest.approx(1.0, abs=1e-12)


def test_halving_every_prediction_makes_the_calibration_one_half() -> None:
    sums = sums_of(np.full(len(LABELS), LABELS.mean() / 2), LABELS)
    assert sums.calibration == pytest.approx(0.5, abs=1e-12)


def test_predictions_for_shuffled_labels_have_ne_of_at_least_1() -> None:
    informed = np.where(LABELS, 0.7, 0.1)
    right, wrong = sums_of(informed, LABELS).ne, sums_of(informed, RANDOM.permutation(LABELS)).ne
    assert right is not None
    assert wrong is not None
    assert right < 0.7
    assert wrong >= 1.0


def test_log_loss_is_the_textbooks() -> None:
    probabilities = RANDOM.uniform(0.01, 0.99, len(LABELS))
    expected = -np.where(LABELS, np.log(probabilities), np.log(1 - probabilities)).sum()
    assert sums_of(probabilities, LABELS).log_loss_sum == pytest.approx(expected)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_a_window_as_long_as_the_stream_equals_the_lifetime(sizes: list[int]) -> None:
    record = TaskRecord(window=Window(sum(sizes)))
    for size in sizes:
        labels = RANDOM.random(size) < 0.3
        record.add(sums_of(RANDOM.uniform(0.1, 0.9, size), labels))
    window = record.window.total()
    assert window.num_targets == record.lifetime.num_targets == sum(sizes)
    assert window.log_loss_sum == pytest.approx(record.lifetime.log_loss_sum)
    assert window.num_positives == record.lifetime.num_positives


@given(st.lists(st.integers(1, 9), min_size=200, max_size=400), st.integers(10, 300))
def test_a_window_covers_the_newest_targets_in_bounded_space(
    sizes: list[int], num_targets: int
) -> None:
    window = Window(num_targets)
    for size in sizes:
        window.add(Sums(num_targets=size))
        held = window.total().num_targets
        assert held - window.buckets[0].num_targets < num_targets
    assert num_targets <= window.total().num_targets <= num_targets * 65 / 64 + 2 * max(sizes) + 1
    assert len(window.buckets) <= 66


def test_one_class_has_no_ne() -> None:
    assert Sums(num_targets=3, num_positives=0, log_loss_sum=1.0).ne is None
    assert Sums(num_targets=3, num_positives=3, log_loss_sum=1.0).ne is None
    assert Sums().calibration is None


def test_a_target_of_no_task_is_in_no_sum_of_it() -> None:
    labels = RANDOM.integers(0, 2, (50, 2)).astype(float)
    logits, counted = RANDOM.normal(size=(50, 2)), RANDOM.integers(0, 2, (50, 2)).astype(float)
    losses = StepLosses(logits, labels, counted, np.full((50, 2), 0.5))
    for task in (0, 1):
        kept = counted[:, task] > 0
        alone = StepLosses(
            logits[kept], labels[kept], np.ones((kept.sum(), 2)), np.full((kept.sum(), 2), 0.5)
        ).sums(task)
        found = losses.sums(task)
        assert (found.num_targets, found.num_positives) == (kept.sum(), labels[kept, task].sum())
        assert found.log_loss_sum == pytest.approx(alone.log_loss_sum)
        assert found.predicted_sum == pytest.approx(alone.predicted_sum)
        assert found.baseline_log_loss_sum == pytest.approx(kept.sum() * math.log(2))


def test_ne_is_torchrecs() -> None:
    metric = NEMetricComputation(
        my_rank=0, batch_size=len(LABELS), n_tasks=1, window_size=len(LABELS)
    )
    probabilities = RANDOM.uniform(0.01, 0.99, len(LABELS))
    metric.update(
        predictions=torch.tensor(probabilities)[None], labels=torch.tensor(LABELS)[None].double(),
        weights=torch.ones(1, len(LABELS)).double(),
    )  # fmt: skip
    theirs = {report.metric_prefix: float(report.value) for report in metric.compute()}
    assert sums_of(probabilities, LABELS).ne == pytest.approx(
        theirs[MetricPrefix.LIFETIME], rel=1e-6
    )
    assert sums_of(probabilities, LABELS).ne == pytest.approx(theirs[MetricPrefix.WINDOW], rel=1e-6)


def line(step: int) -> StepLine:
    return StepLine(
        step=step, num_targets=2, total_targets=2 * step, clock_ms=5, skipped=False,
        tasks={"like": {"log_loss_sum": 1 / 3, "ne_window": None}},
    )  # fmt: skip


def test_the_log_forgets_what_comes_again_and_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ne.jsonl"
    log = NeLog(path, step=0)
    for step in range(1, 6):
        log.append(line(step))
    log.close()
    with path.open("a") as file:
        file.write('{"step": 6, "num')
    again = NeLog(path, step=3)
    again.append(line(4))
    again.close()
    assert read_ne_log(path) == [line(step) for step in range(1, 5)]
