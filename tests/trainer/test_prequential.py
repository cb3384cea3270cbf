"""What a run says of its targets: tasks of some targets only, segments, and orderings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from features.sequence_reader import decode_columns
from features.sequences import HEADER, Sequence, decode
from tests.trainer.loop_runs import CONFIG, NUM_MESSAGES, run_once
from tests.trainer.streams import CLICK, LIKE, recorded
from trainer import metrics
from trainer.auc import auc
from trainer.batch import TokenBatch
from trainer.learner import Learner
from trainer.ne_log import read_ne_log
from trainer.prequential import Prequential, ScoredTargets
from trainer.ranks import Ranks
from trainer.segments import SEGMENTS

AMONG = replace(CONFIG, model=replace(CONFIG.model, tasks=(("like", LIKE), ("likes", LIKE, CLICK))))
RANDOM = np.random.default_rng(0)


def test_a_task_is_learned_and_counted_among_its_own_targets_alone(alone: Ranks) -> None:
    records = [r for r in recorded(num_messages=20) if isinstance(decode(r.value), Sequence)]
    batch = TokenBatch.from_columns(decode_columns([record.value for record in records]))
    actions = batch.actions[batch.target_index]
    is_clicked = (actions & CLICK) > 0
    assert 0 < int(is_clicked.sum()) < len(actions)
    learner = Learner(AMONG, alone)
    scored = learner.score(batch, step=0, clock_ms=0)
    assert torch.equal(scored.news[:, 1] > 0, is_clicked)
    assert learner.learn(scored)
    liked = (actions & LIKE) > 0
    head = learner.model.ranking
    assert head.num_targets.tolist() == [len(actions), int(is_clicked.sum())]
    assert head.num_positives.tolist() == [int(liked.sum()), int((liked & is_clicked).sum())]


def test_labels_of_targets_that_do_not_count_move_no_weight(alone: Ranks) -> None:
    only = replace(AMONG, model=replace(AMONG.model, tasks=AMONG.model.tasks[1:]))
    config = replace(only, retrieval_weight=0.0)
    records = [r for r in recorded(num_messages=20) if isinstance(decode(r.value), Sequence)]
    batch = TokenBatch.from_columns(decode_columns([record.value for record in records]))
    actions = batch.actions.clone()
    ineligible = batch.target_index[(actions[batch.target_index] & CLICK) == 0]
    actions[ineligible] ^= LIKE
    found = []
    for told in (batch, replace(batch, actions=actions)):
        learner = Learner(config, alone)
        assert learner.learn(learner.score(told, step=0, clock_ms=0))
        found.append(learner.dense())
    for name, weight in found[0].items():
        assert torch.equal(weight, found[1][name]), name


def test_a_runs_lines_hold_every_tasks_own_targets_segments_and_orderings(
    alone: Ranks, tmp_path: Path
) -> None:
    run_once(tmp_path, alone, records=recorded(num_messages=NUM_MESSAGES), config=AMONG)
    lines = read_ne_log(tmp_path / "ne.jsonl")
    totals = [
        sum(line.tasks[task]["num_targets"] or 0 for line in lines) for task in ("like", "likes")
    ]
    assert totals[0] == lines[-1].total_targets
    assert 0 < totals[1] < totals[0]
    last = lines[-1].tasks["like"]
    assert last["ne_new_user"] is not None
    assert {name.removeprefix("ne_") for name in last} >= {"new_user", "new_item", "history_1_to_7"}
    measured = [line for line in lines if "gauc_window" in line.tasks["like"]]
    assert len(measured) > 1
    value = measured[-1].tasks["like"]["auc_window"]
    assert value is not None
    assert metrics.auc.labels(task="like")._value.get() == value
    assert 0.5 < value <= 1.0


def test_a_targets_own_label_leaves_its_score_as_it_is(alone: Ranks, tmp_path: Path) -> None:
    records = recorded(num_messages=NUM_MESSAGES)
    last = max(i for i, r in enumerate(records) if isinstance(decode(r.value), Sequence))
    message = decode(records[last].value)
    assert isinstance(message, Sequence)
    tokens = message.tokens.copy()
    tokens["actions"][-message.num_targets :] ^= LIKE
    value = records[last].value[: HEADER.itemsize] + tokens.tobytes()
    value += message.target_offsets.tobytes()
    flipped = [*records[:last], records[last]._replace(value=value), *records[last + 1 :]]
    config = replace(CONFIG, token_budget=1)  # a step a message
    for name, stream in (("told", records), ("flipped", flipped)):
        run_once(tmp_path / name, alone, records=stream, config=config)
    told, lied = (read_ne_log(tmp_path / name / "ne.jsonl") for name in ("told", "flipped"))
    differs = [a.tasks["like"]["num_positives"] != b.tasks["like"]["num_positives"]
               for a, b in zip(told, lied, strict=True)]  # fmt: skip
    assert sum(differs) == 1
    assert not any(differs[:-2])
    at = differs.index(True) + 1
    said = [[line.tasks["like"]["predicted_sum"] for line in lines[:at]] for lines in (told, lied)]
    assert said[0] == said[1]


def scored(num_targets: int, *, informed: bool = True) -> ScoredTargets:
    labels = (RANDOM.random((num_targets, 2)) < 0.3).astype(float)
    return ScoredTargets(
        users=RANDOM.integers(0, 9, num_targets),
        history_lengths=RANDOM.integers(0, 200, num_targets) * (RANDOM.random(num_targets) < 0.8),
        is_new_item=RANDOM.random(num_targets) < 0.2,
        logits=2 * labels - 1.5 if informed else np.zeros_like(labels),
        labels=labels,
        counted=np.ones_like(labels),
        baseline=np.full_like(labels, 0.3),
    )  # fmt: skip


def test_segments_by_history_part_the_stream_and_a_long_window_is_the_lifetime() -> None:
    prequential, total = Prequential(replace(CONFIG, window_targets=10**6)), 0
    for count in (30, 1, 200, 55):
        prequential.observe(scored(count), num_before=total)
        total += count
    record = prequential.records["like"]
    parts = {name: window.total() for name, window in record.segments.items()}
    assert set(parts) == set(SEGMENTS)
    by_history = [sums for name, sums in parts.items() if name != "new_item"]
    assert sum(sums.num_targets for sums in by_history) == record.lifetime.num_targets == total
    loss = sum(sums.log_loss_sum for sums in by_history)
    assert loss == pytest.approx(record.lifetime.log_loss_sum)
    assert record.window.total().ne == pytest.approx(record.lifetime.ne)


def test_orderings_are_measured_a_few_times_a_window_and_are_of_the_newest_targets() -> None:
    config = replace(CONFIG, auc_window_targets=160)
    prequential, kept, measured = Prequential(config), [], 0
    for step in range(100):
        targets = scored(4)
        kept.append(targets)
        figures = prequential.observe(targets, num_before=4 * step)["click"]
        if "auc_window" in figures:
            measured += 1
            logits = np.concatenate([t.logits for t in kept])[-160:, 1]
            labels = np.concatenate([t.labels for t in kept])[-160:, 1].astype(np.int64)
            assert figures["auc_window"] == auc(logits, labels)
    assert measured == 400 // 10


def test_a_step_without_a_target_says_nothing() -> None:
    prequential = Prequential(CONFIG)
    assert prequential.observe(scored(0), num_before=0) == {}
    assert prequential.records["like"].lifetime.num_targets == 0
