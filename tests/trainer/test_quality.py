"""Identities every NE, calibration and baseline figure must satisfy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.ne_log import NeLog, StepLine, read_ne_log
from trainer.quality import ItemRates, Sums, TaskRecord, Window, step_sums

RANDOM = np.random.default_rng(0)


def logit(probability: np.ndarray) -> np.ndarray:
    return np.log(probability) - np.log1p(-probability)


def sums_of(probabilities: np.ndarray, labels: np.ndarray) -> Sums:
    column = labels[:, None].astype(float)
    return step_sums(logit(probabilities)[:, None], column, np.full_like(column, 0.5))[0]


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


def test_item_rates_follow_their_definition_and_are_scored_before_updated() -> None:
    rates = ItemRates(4, 1)
    assert rates.score(np.array([1, 2])).tolist() == [[0.5], [0.5]]
    rates.update(np.array([1, 1, 2]), np.array([[1.0], [1.0], [0.0]]))
    overall = (2 + 1) / (3 + 2)
    expected = [(2 + 20 * overall) / 22, (0 + 20 * overall) / 21, overall]
    assert rates.score(np.array([1, 2, 3]))[:, 0] == pytest.approx(expected)
    again = ItemRates.from_counts(rates.shown, rates.positives)
    assert np.array_equal(again.score(np.arange(4)), rates.score(np.arange(4)))


def test_item_rates_beat_the_base_rate_where_items_differ() -> None:
    likes, rates, total = RANDOM.uniform(0.05, 0.95, 50), ItemRates(50, 1), Sums()
    for _ in range(100):
        rows = RANDOM.integers(0, 50, 40)
        labels = (RANDOM.random(40) < likes[rows])[:, None].astype(float)
        total += step_sums(np.zeros_like(labels), labels, rates.score(rows))[0]
        rates.update(rows, labels)
    assert total.baseline_ne is not None
    assert total.baseline_ne < 0.9
    assert total.ne == pytest.approx(1.0, abs=0.01)
    assert total.log_loss_sum == pytest.approx(4_000 * math.log(2))


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
