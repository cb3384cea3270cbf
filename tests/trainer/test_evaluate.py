"""Offline scoring by the training forward."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from features.sequence_reader import ALL_BITS
from features.sequences import TOKEN
from ingest.runtime.errors import FreshetError
from tests.trainer.loop_runs import CONFIG, run_once
from tests.trainer.streams import recorded
from trainer.batch import TokenBatch
from trainer.evaluate import Evaluator, main, read_request
from trainer.export import list_exports
from trainer.idmap import FALLBACK_ROW
from trainer.ranks import Ranks


def test_an_export_scores_as_the_trainer_that_wrote_it(alone: Ranks, tmp_path: Path) -> None:
    # Fast enough to know the items after so few messages, whatever it started from.
    config = replace(CONFIG, table_learning_rate=0.5, dense_learning_rate=0.01)
    session = run_once(tmp_path, alone, records=recorded(num_messages=120), config=config)
    evaluator = Evaluator.of_export(list_exports(tmp_path / "exports")[-1])
    history = np.zeros(3, TOKEN)
    history["item_id"], history["event_time_ms"] = [1_000, 1_007, 1_014], [1_000, 2_000, 3_000]
    history["actions"] = [9, 1, 3]
    candidates = np.array([1_000, 1_007, 999_999_999])
    found = evaluator.probabilities(
        user_id=5, history=history, candidates=candidates, time_ms=9_000
    )

    items = [*history["item_id"].tolist(), *candidates.tolist()]
    batch = TokenBatch(
        user_ids=torch.tensor([5]),
        offsets=torch.tensor([0, 6]),
        num_targets=torch.tensor([3]),
        item_ids=torch.tensor(items),
        times_ms=torch.tensor([1_000, 2_000, 3_000, 9_000, 9_000, 9_000]),
        actions=torch.tensor([9, 1, 3, 0, 0, 0]),
        watch_ms=torch.zeros(6, dtype=torch.int64),
        price_minor=torch.zeros(6, dtype=torch.int64),
        changed=torch.full((3,), ALL_BITS),
    )
    scored = session.learner.score(batch, step=session.step, clock_ms=9_000)
    assert session.learner.idmap.rows_of(candidates)[2] != FALLBACK_ROW  # admitted just now
    expected = torch.sigmoid(scored.logits).numpy()
    assert np.allclose(found[:2], expected[:2], atol=1e-6)
    assert found[0, 0] > found[1, 0]  # item 1,000 is liked nine times of ten, 1,007 once


REQUEST: dict[str, Any] = {
    "user_id": 5,
    "history": [
        {"item_id": 1_000, "event_time_ms": 1_000, "actions": 9},
        {"item_id": 1_007, "event_time_ms": 2_000, "actions": 1},
    ],
    "candidates": [1_000, 1_007],
    "time_ms": 9_000,
}


def test_a_request_on_standard_input_is_answered_by_task(
    alone: Ranks,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    run_once(tmp_path, alone, records=recorded(num_messages=120))
    export = list_exports(tmp_path / "exports")[-1]
    monkeypatch.setattr("sys.argv", ["evaluate", str(export)])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(msgspec.json.encode(REQUEST))))
    main()
    printed = capsysbinary.readouterr().out.splitlines()[-1]
    answer = msgspec.json.decode(printed, type=dict[str, list[float]])
    assert {task: len(scores) for task, scores in answer.items()} == {"like": 2, "click": 2}


def test_a_history_with_an_item_that_is_none_is_refused(
    alone: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_once(tmp_path, alone, records=recorded(num_messages=120))
    export = list_exports(tmp_path / "exports")[-1]
    request = REQUEST | {"history": [REQUEST["history"][0] | {"item_id": -5}]}
    monkeypatch.setattr("sys.argv", ["evaluate", str(export)])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(msgspec.json.encode(request))))
    with pytest.raises(FreshetError, match="negative id"):
        main()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"user_id": -1}, r"user_id"),
        ({"user_id": 2**63}, r"user_id"),
        ({"candidates": []}, r"candidates"),
        ({"candidates": [-5]}, r"candidates"),
        ({"history": [REQUEST["history"][0] | {"actions": 2**32}]}, r"history.*actions"),
        ({"history": REQUEST["history"][::-1]}, "out of order"),
    ],
)
def test_a_request_out_of_range_is_refused_by_name(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(FreshetError, match=reason):
        read_request(msgspec.json.encode(REQUEST | changes))
