"""Item rates: their definition, the decay by event time, and that order of arrival is nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.quality import StepLosses, Sums
from trainer.rates import ItemRates

HALF_LIFE_SECONDS = 10.0
RANDOM = np.random.default_rng(0)


def empty(num_rows: int, num_tasks: int) -> ItemRates:
    return ItemRates(num_rows, num_tasks, half_life_seconds=HALF_LIFE_SECONDS)


def learn(rates: ItemRates, rows: list[int], times_ms: list[int], labels: list[float]) -> None:
    column = np.array(labels)[:, None]
    rates.update(np.array(rows), np.array(times_ms), shown=np.ones_like(column), positives=column)


def log_odds(rate: float) -> float:
    return float(np.log(rate / (1 - rate)))


def test_rates_follow_their_definition_and_are_scored_before_updated() -> None:
    rates = empty(4, 1)
    assert rates.score(np.array([1, 2])).tolist() == [[0.5], [0.5]]
    learn(rates, [1, 1, 2], [0, 0, 0], [1.0, 1.0, 0.0])
    overall = (2 + 1) / (3 + 2)
    expected = [(2 + 20 * overall) / 22, (0 + 20 * overall) / 21, overall]
    assert rates.score(np.array([1, 2, 3]))[:, 0] == pytest.approx(expected)


def test_the_models_figures_follow_their_definition() -> None:
    rates = empty(3, 1)
    learn(rates, [1, 1, 2], [5_000, 15_000, 25_000], [1.0, 0.0, 0.0])
    overall, lately = (1 + 1) / (3 + 2), 2**-2 + 2**-1
    whole = log_odds((1 + 20 * overall) / 22) - log_odds(overall)
    recent = log_odds((2**-2 + 20 * overall) / (lately + 20)) - log_odds(overall)
    volumes = (np.log1p([2, lately]) / 5 - 0.5).tolist()
    expected = [[whole, recent, *volumes], [0, 0, -0.5, -0.5]]
    assert rates.figures(np.array([1, 0])) == pytest.approx(np.array(expected), abs=1e-6)


targets = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 60_000), st.booleans()), min_size=1, max_size=20
)


@given(targets, st.data())
def test_order_of_arrival_and_cuts_into_steps_are_nothing_to_the_figures(
    targets: list[tuple[int, int, bool]], data: st.DataObject
) -> None:
    at_once, one_by_one = empty(4, 1), empty(4, 1)
    learn(at_once, [t[0] for t in targets], [t[1] for t in targets], [float(t[2]) for t in targets])
    for row, time_ms, label in data.draw(st.permutations(targets)):
        learn(one_by_one, [row], [time_ms], [float(label)])
    found, expected = one_by_one.figures(np.arange(4)), at_once.figures(np.arange(4))
    assert found == pytest.approx(expected, abs=1e-5)
    state = one_by_one.state()
    again = ItemRates.from_state(state, half_life_seconds=HALF_LIFE_SECONDS)
    assert np.array_equal(again.figures(np.arange(4)), found)
    assert again.clock_ms == max(time_ms for _, time_ms, _ in targets)


def test_a_correction_makes_a_positive_as_old_as_its_target() -> None:
    told_at_once, told_late = empty(2, 1), empty(2, 1)
    learn(told_at_once, [1, 1], [0, 30_000], [1.0, 0.0])
    learn(told_late, [1, 1], [0, 30_000], [0.0, 0.0])
    told_late.update(
        np.array([1]), np.array([0]), shown=np.zeros((1, 1)), positives=np.ones((1, 1))
    )
    assert np.array_equal(told_late.figures(np.arange(2)), told_at_once.figures(np.arange(2)))


def test_item_rates_beat_the_base_rate_where_items_differ() -> None:
    likes, rates, total = RANDOM.uniform(0.05, 0.95, 50), empty(50, 1), Sums()
    for step in range(100):
        rows = RANDOM.integers(0, 50, 40)
        labels = (RANDOM.random(40) < likes[rows])[:, None].astype(float)
        ones = np.ones_like(labels)
        total += StepLosses(0 * labels, labels, ones, rates.score(rows)).sums(0)
        rates.update(rows, np.full(40, step * 1_000), shown=ones, positives=labels)
    assert total.baseline_ne is not None
    assert total.baseline_ne < 0.9
    assert total.ne == pytest.approx(1.0, abs=0.01)
    assert total.log_loss_sum == pytest.approx(4_000 * np.log(2))
