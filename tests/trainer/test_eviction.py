"""A run whose ids come and go: what is forgotten is gone everywhere, and a crash changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from prometheus_client import REGISTRY

from ingest.runtime.kafka import Record
from tests.trainer.loop_runs import (
    CONFIG,
    NUM_MESSAGES,
    assert_same,
    contents,
    run_killed,
    run_once,
)
from tests.trainer.streams import recorded, with_corrections
from trainer.export import list_exports, read_export
from trainer.learner import Learner, Scored
from trainer.ne_log import read_ne_log
from trainer.ranks import Ranks
from trainer.rates import ItemRates
from trainer.session import Session
from trainer.table import ItemTable

# Twenty items and three contexts for fifteen rows, a second of event time every three messages.
TINY = replace(CONFIG, table_rows=16, token_budget=16, admit_after=3, idle_ttl_ms=1_000)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return with_corrections(recorded(num_messages=NUM_MESSAGES))


def evicted(reason: str) -> float:
    name = "freshet_trainer_idmap_evicted_total"
    return REGISTRY.get_sample_value(name, {"reason": reason}) or 0.0


def test_killed_anywhere_and_restarted_it_ends_bit_for_bit(
    alone: Ranks, records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = evicted("idle"), evicted("full")
    whole = contents(run_once(tmp_path / "whole", alone, records=records, config=TINY))
    assert evicted("idle") > before[0]
    assert evicted("full") > before[1]
    curve = read_ne_log(tmp_path / "whole" / "ne.jsonl")
    for kill_at in range(5, whole.state.step, 13):
        directory = tmp_path / str(kill_at)
        run_killed(
            directory, alone, kill_at, monkeypatch, records=records, config=TINY, seed=kill_at
        )
        session = run_once(directory, alone, records=records, config=TINY, seed=kill_at + 100)
        assert_same(contents(session), whole)
        assert read_ne_log(directory / "ne.jsonl") == curve


def test_a_free_row_is_as_the_table_began_and_counts_nothing(
    alone: Ranks, records: list[Record], tmp_path: Path
) -> None:
    config = replace(TINY, table_rows=24, idle_ttl_ms=200)  # never full: what was freed stays free
    session = run_once(tmp_path, alone, records=records, config=config)
    begun = contents(Session(config, alone, starts={0: 0, 1: 0}, code_revision="tested"))
    found = contents(session)
    row_ids = found.tensors["idmap"]["row_ids"]
    # Row 0 has no id either.
    free = (row_ids == -1) & (torch.arange(24) > 0) & (found.tensors["idmap"]["changed_steps"] >= 0)
    assert free.any()
    for name in ("weight", "momentum"):
        assert torch.equal(found.tensors["table"][name][free], begun.tensors["table"][name][free])
    assert not torch.equal(found.tensors["table"]["weight"], begun.tensors["table"]["weight"])
    for counts in found.tensors["rates"].values():
        assert not counts[free].any()
    shown = found.tensors["rates"]["shown"].sum(0)
    assert shown.tolist() == [found.state.num_targets] * len(config.model.tasks)

    _, _, table = read_export(list_exports(tmp_path / "exports")[-1])
    assert torch.equal(table["row_ids"], row_ids)


def test_what_changed_since_a_step_turns_the_table_of_then_into_that_of_now(
    alone: Ranks, records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[dict[str, torch.Tensor]] = []
    original = Learner.learn

    def learn(self: Learner, scored: Scored) -> bool:
        learned = original(self, scored)
        table, state = self.table.gather(), self.row_state()
        assert table is not None
        taken.append(state | {"weight": table.weight, "momentum": table.momentum})
        return learned

    monkeypatch.setattr(Learner, "learn", learn)
    run_once(tmp_path, alone, records=records, config=replace(TINY, num_negatives=2))
    now = taken[-1]
    sizes = []
    for step, then in enumerate(taken):  # after step `step`
        changed = now["changed_steps"] > step
        sizes.append(int(changed.sum()))
        for name in ("row_ids", "weight", "momentum"):
            then[name][changed] = now[name][changed]
            assert torch.equal(then[name], now[name]), (step, name)
    assert sizes == sorted(sizes, reverse=True)
    assert 0 < sizes[-2] < TINY.table_rows, "a step changes a part of the rows"


def test_rows_started_anew_are_as_the_table_began(alone: Ranks) -> None:
    table = ItemTable(
        num_rows=9_000, embedding_dim=4, learning_rate=0.5, init_std=0.1, seed=2, ranks=alone
    )
    begun = table.gather()
    rows = torch.arange(9_000)
    table.lookup(rows).sum().backward()
    again = np.array([0, 1, 4_095, 4_096, 8_999])
    table.reset(again)
    found = table.gather()
    assert begun is not None
    assert found is not None
    is_anew = torch.isin(rows, torch.from_numpy(again))
    assert torch.equal(found.weight[is_anew], begun.weight[is_anew])
    assert not found.momentum[is_anew].any()
    assert found.momentum[~is_anew].all()
    assert not (found.weight[~is_anew] == begun.weight[~is_anew]).any()


def test_what_forgotten_items_counted_goes_on_in_the_fallback_row() -> None:
    rates = ItemRates(4, 1, half_life_seconds=1.0)
    labels = np.array([[1.0], [0.0], [1.0], [1.0]])
    times_ms = np.array([0, 1_000, 2_000, 2_000])
    rates.update(np.array([1, 1, 2, 3]), times_ms, shown=np.ones((4, 1)), positives=labels)
    rates.forget(np.array([1, 3]))
    assert rates.shown.tolist() == [[3], [0], [1], [0]]
    assert rates.positives.tolist() == [[2], [0], [1], [0]]
    assert rates.recent_shown.tolist() == [[1.75], [0], [1], [0]]
    assert rates.recent_positives.tolist() == [[1.25], [0], [1], [0]]
    again = ItemRates.from_state(rates.state(), half_life_seconds=1.0)
    assert np.array_equal(again.score(np.arange(4)), rates.score(np.arange(4)))
    assert np.array_equal(again.figures(np.arange(4)), rates.figures(np.arange(4)))
