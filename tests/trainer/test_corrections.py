"""Corrections: what a late event trains, and what it must leave alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from features.sequence_reader import ALL_BITS, decode_columns
from features.sequences import CONTEXT_BIT, TOKEN_STRUCT, context_id, encode_correction
from tests.trainer.loop_runs import CONFIG, NUM_MESSAGES, assert_same, contents, run_once
from tests.trainer.model.test_recommender import make_batch
from tests.trainer.streams import (
    CLICK,
    LIKE,
    as_version_1,
    progress_record,
    recorded,
    targets_record,
    with_corrections,
)
from trainer.batch import TokenBatch
from trainer.learner import Learner
from trainer.model.config import ModelConfig
from trainer.model.heads import RankingHead
from trainer.model.losses import labels, news, ranking_loss
from trainer.model.recommender import Recommender
from trainer.ne_log import read_ne_log
from trainer.ranks import Ranks
from trainer.rates import ItemRates

MASKS = (LIKE, CLICK, LIKE | CLICK)
SMALL = ModelConfig(
    tasks=(("like", LIKE), ("click", CLICK), ("either", LIKE | CLICK)),
    embedding_dim=8, qk_dim=4, value_dim=4, hidden_dim=8,
)  # fmt: skip
bits = st.integers(0, 2**27 - 1).map(lambda value: value & ~CONTEXT_BIT)


def gradients(model: Recommender, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }


@settings(max_examples=25)
@given(
    targets=st.lists(st.tuples(bits, bits, st.booleans()), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_a_corrections_gradient_is_the_full_examples_with_the_unchanged_labels_masked(
    targets: list[tuple[int, int, bool]], seed: int
) -> None:
    batch, rows = make_batch([seed % 5] * len(targets), [1] * len(targets), seed)
    items = rows[:, : SMALL.embedding_dim]
    after = torch.tensor([actions for actions, _, _ in targets])
    changed = torch.tensor([c & a if late else ALL_BITS for a, c, late in targets])
    actions = batch.actions.clone()
    actions[batch.target_index] = after
    torch.manual_seed(seed)
    model = Recommender(SMALL)

    def logits(batch: TokenBatch) -> torch.Tensor:
        return model(batch, items).task_logits

    corrected = replace(batch, actions=actions, changed=changed)
    truth = labels(after, MASKS)
    loss = ranking_loss(logits(corrected), truth, news(after, changed, MASKS, (0, 0, 0)))
    found = gradients(model, loss)

    before = labels(after & ~changed, MASKS)
    is_new = torch.tensor([not late for _, _, late in targets])[:, None]
    learned = is_new | (truth != before)
    full = replace(batch, actions=actions)
    each = functional.binary_cross_entropy_with_logits(logits(full), truth, reduction="none")
    expected = gradients(model, each[learned].sum() + 0.0 * each.sum())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-5)
    for task in (~learned.any(0)).nonzero()[:, 0].tolist():
        assert not found["ranking.tasks.weight"][task].any()
        assert not found["ranking.item_line.weight"][task].any()


def late_batch(actions: int, changed: int) -> TokenBatch:
    """One correction of a token of item 1,007, behind a history of two."""
    rows = [(1_000, 10**12, 0, 0, LIKE), (1_014, 10**12 + 5, 0, 0, CLICK)]
    packed = b"".join(
        TOKEN_STRUCT.pack(*row) for row in [*rows, (1_007, 10**12 + 9, 0, 0, actions)]
    )
    value = encode_correction(
        partition=0, user_id=3, clock_ms=10**12 + 99, offset=7, lifetime_tokens=2, tokens=packed,
        changed=changed,
    )  # fmt: skip
    return TokenBatch.from_columns(decode_columns([value]))


def everything(learner: Learner) -> dict[str, torch.Tensor]:
    table = learner.table.gather()
    assert table is not None
    return learner.dense() | {"table": table.weight}


def test_a_correction_without_a_changed_bit_moves_no_weight(alone: Ranks) -> None:
    learner = Learner(CONFIG, alone)
    scored = learner.score(late_batch(LIKE | CLICK, 0), step=0, clock_ms=0)
    before = everything(learner)
    assert learner.learn(scored)
    for name, weight in everything(learner).items():
        assert torch.equal(weight, before[name]), name


def test_a_late_like_moves_the_like_and_adds_no_target_to_the_base_rates(alone: Ranks) -> None:
    learner = Learner(CONFIG, alone)
    learner.model.ranking.count([10, 10], [2, 3])
    scored = learner.score(late_batch(LIKE | CLICK, LIKE), step=0, clock_ms=0)
    before = everything(learner)
    assert learner.learn(scored)
    after = everything(learner)
    (like, click) = (after["ranking.tasks.weight"] - before["ranking.tasks.weight"]).abs().sum(1)
    assert like > 0
    assert click == 0
    assert after["ranking.num_targets"].tolist() == [10, 10]
    assert after["ranking.num_positives"].tolist() == [3, 3]


def test_the_base_rates_hold_though_a_run_begins_between_a_target_and_its_correction() -> None:
    head = RankingHead(CONFIG.model)
    head.count([1, 1], [1, 0])
    head.count([0, 0], [1, 1])
    assert head.num_positives.tolist() == [1, 1]
    rates = ItemRates(3, 2, half_life_seconds=60.0)
    rows, told = np.array([1, 1, 2]), np.array([[0.0, 1], [0, 0], [1, 0]])
    rates.update(rows, np.array([0, 5, 9]), shown=np.ones((3, 2)), positives=told)
    rows, told = np.array([1, 1, 2, 0]), np.array([[1.0, 0], [1, 0], [1, 1], [1, 1]])
    rates.update(rows, np.array([0, 5, 9, 4]), shown=np.zeros((4, 2)), positives=told)
    assert rates.positives.tolist() == [[0, 0], [2, 1], [1, 1]]
    again = ItemRates.from_state(rates.state(), half_life_seconds=60.0)
    assert np.array_equal(rates.score(np.arange(3)), again.score(np.arange(3)))
    assert (rates.score(np.arange(3)) < 1).all()
    assert np.isfinite(rates.figures(np.arange(3))).all()


def test_a_correction_is_not_scored_and_what_is_scored_does_not_see_it_coming(
    alone: Ranks, tmp_path: Path
) -> None:
    """Up to and with the step of the first correction the curve is that of the stream without any."""
    records = with_corrections(recorded(num_messages=NUM_MESSAGES))
    plain = [r for r in records if int.from_bytes(r.value[8:10], "little") != 2]
    config = replace(CONFIG, token_budget=1)  # a step a message
    for name, stream in (("late", records), ("plain", plain)):
        run_once(tmp_path / name, alone, records=stream, config=config)
    late, curve = (read_ne_log(tmp_path / name / "ne.jsonl") for name in ("late", "plain"))
    first = next(index for index, line in enumerate(late) if line.num_corrections)
    assert late[first].tasks == {}
    assert late[first].num_targets == 0
    assert [line.tasks for line in late[:first]] == [line.tasks for line in curve[:first]]
    scored = [line for line in late if line.tasks]
    assert [line.num_targets for line in scored] == [line.num_targets for line in curve]
    for figure in ("log_loss_sum", "baseline_log_loss_sum"):
        told, untold = ([line.tasks["like"][figure] for line in lines] for lines in (scored, curve))
        assert told != untold, "corrections teach the model and the baseline"


def test_both_versions_mixed_in_one_topic_train_as_one(alone: Ranks, tmp_path: Path) -> None:
    records = recorded(num_messages=NUM_MESSAGES)
    mixed = [as_version_1(r) if i % 3 else r for i, r in enumerate(records)]
    sessions = [
        run_once(tmp_path / name, alone, records=stream)
        for name, stream in (("mixed", mixed), ("newest", records))
    ]
    assert_same(contents(sessions[0]), contents(sessions[1]))
    assert sessions[0].num_targets > 0


@pytest.mark.parametrize("num_contexts", [0, 5])
def test_context_tokens_have_rows_and_are_never_negatives(
    alone: Ranks, tmp_path: Path, num_contexts: int
) -> None:
    contexts = [(context_id("city", str(k)), CONTEXT_BIT) for k in range(num_contexts)]
    records = [
        targets_record(
            i % 2, i // 2, 10**12 + i, user_id=i % 2, tokens=[*contexts, (1_000 + i, LIKE)]
        )
        for i in range(8)
    ]
    records += [progress_record(p, 4, 2 * 10**12) for p in (0, 1)]
    session = run_once(tmp_path, alone, records=records)
    idmap = session.learner.idmap
    assert idmap.num_ids == 8 + num_contexts
    context_rows = idmap.rows_of(np.array([item for item, _ in contexts], np.int64))
    scored = session.learner.score(late_batch(LIKE, LIKE), step=3, clock_ms=3)
    assert not set(scored.negative_rows.tolist()) & set(context_rows.tolist())
    assert len(scored.negative_rows) == CONFIG.num_negatives
