"""AUC and GAUC: identities, the definition by pairs, torchrec's figure, and the window's bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchrec.metrics.auc import compute_auc

from trainer.auc import ScoreWindow, auc, gauc

RANDOM = np.random.default_rng(0)
LABELS = (RANDOM.random(3_000) < 0.2).astype(np.int64)


def by_pairs(scores: list[float], labels: list[int]) -> float | None:
    pairs = [
        (a > b) + (a == b) / 2
        for a, x in zip(scores, labels, strict=True)
        for b, y in zip(scores, labels, strict=True)
        if x > y
    ]
    return sum(pairs) / len(pairs) if pairs else None


rows = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 1), st.integers(-(2**62), -(2**62) + 2)),
    max_size=30,
)


@given(rows)
def test_auc_and_gauc_are_what_counting_pairs_gives(rows: list[tuple[int, int, int]]) -> None:
    scores, labels, users = (
        (list(column) for column in zip(*rows, strict=True)) if rows else [[]] * 3
    )
    columns = [np.array(scores, float), np.array(labels, np.int64), np.array(users, np.int64)]
    assert auc(columns[0], columns[1]) == pytest.approx(by_pairs(scores, labels))
    weighted = []
    for user in set(users):
        mine = [(s, y) for s, y, u in rows if u == user]
        value = by_pairs([float(s) for s, _ in mine], [y for _, y in mine])
        weighted += [] if value is None else [(value, len(mine))]
    total = sum(size for _, size in weighted)
    expected = sum(value * size for value, size in weighted) / total if total else None
    assert gauc(*columns) == pytest.approx(expected)


def test_a_constant_score_has_auc_one_half_and_halving_every_score_changes_none() -> None:
    scores = RANDOM.random(len(LABELS)) + 0.3 * LABELS
    users = RANDOM.integers(0, 40, len(LABELS))
    constant = np.full(len(LABELS), 0.2)
    assert auc(constant, LABELS) == gauc(constant, LABELS, users) == 0.5
    assert auc(scores / 2, LABELS) == auc(scores, LABELS)
    assert gauc(scores / 2, LABELS, users) == gauc(scores, LABELS, users)
    shuffled = auc(scores, RANDOM.permutation(LABELS))
    assert shuffled == pytest.approx(0.5, abs=0.05)


def test_auc_is_torchrecs() -> None:
    scores = RANDOM.random(len(LABELS)) + 0.3 * LABELS
    theirs = compute_auc(
        n_tasks=1,
        predictions=[torch.tensor(scores)[None]],
        labels=[torch.tensor(LABELS)[None].double()],
        weights=[torch.ones(1, len(LABELS)).double()],
    )
    assert auc(scores, LABELS) == pytest.approx(float(theirs), rel=1e-6)


def test_a_score_of_the_user_alone_orders_users_and_nothing_within_them() -> None:
    users = RANDOM.integers(0, 20, len(LABELS))
    rates = np.array([LABELS[users == user].mean() for user in range(20)])
    overall = auc(rates[users], LABELS)
    assert overall is not None
    assert overall > 0.52
    assert gauc(rates[users], LABELS, users) == 0.5


@given(st.lists(st.integers(0, 20), min_size=1, max_size=20), st.integers(1, 60))
def test_the_window_holds_the_newest_targets_and_no_more(sizes: list[int], size: int) -> None:
    window, logits, labels = ScoreWindow(size, 2), np.empty((0, 2)), np.empty((0, 2))
    users = np.empty(0, np.int64)
    for count in sizes:
        step = RANDOM.normal(size=(count, 2)).astype(np.float32).astype(np.float64)
        truth = RANDOM.integers(0, 2, (count, 2)).astype(np.float64)
        who = RANDOM.integers(0, 3, count)
        window.add(who, step, truth, np.ones((count, 2)))
        users, logits, labels = (
            np.concatenate(pair) for pair in ((users, who), (logits, step), (labels, truth))
        )
    newest = (logits[-size:, 1], labels[-size:, 1].astype(np.int64))
    found = window.figures(1)
    assert found == {"auc_window": auc(*newest), "gauc_window": gauc(*newest, users[-size:])}
    assert len(window.state()["users"]) <= size
    again = ScoreWindow(size, 2)
    again.load(window.state())
    assert again.figures(1) == found


def test_what_is_none_of_a_tasks_targets_is_not_ordered() -> None:
    window = ScoreWindow(10, 1)
    logits, labels = np.array([[0.0], [1.0], [9.0]]), np.array([[0.0], [1.0], [0.0]])
    window.add(np.array([1, 1, 1]), logits, labels, np.array([[1.0], [1.0], [0.0]]))
    assert window.figures(0) == {"auc_window": 1.0, "gauc_window": 1.0}
