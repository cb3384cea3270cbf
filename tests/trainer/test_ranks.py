"""Two ranks against one on the same global batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import multiprocessing

from deploy.ports import free_ports
from tests.trainer.two_ranks import CONFIG, NUM_STEPS, train_fixed, worker
from trainer.checkpoint import list_checkpoints, read_checkpoint
from trainer.learner import draw_rows
from trainer.ne_log import read_ne_log
from trainer.ranks import Ranks
from trainer.session import Session


def test_two_ranks_train_the_same_global_batches_to_the_same_curve_and_weights(
    alone: Ranks, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    train_fixed(one, alone)
    multiprocessing.spawn(worker, args=(2, free_ports(1)[0], two), nprocs=2)

    curves = [read_ne_log(directory / "ne.jsonl") for directory in (one, two)]
    assert [line.num_targets for line in curves[0]] == [line.num_targets for line in curves[1]]
    for task in CONFIG.model.task_names:
        losses = [[line.tasks[task]["log_loss_sum"] for line in curve] for curve in curves]
        assert losses[1] == pytest.approx(losses[0], abs=1e-4)
        baselines = [[ln.tasks[task]["baseline_log_loss_sum"] for ln in curve] for curve in curves]
        assert baselines[1] == pytest.approx(baselines[0], abs=1e-9)
    wanted, found = (
        read_checkpoint(list_checkpoints(directory)[-1]).tensors for directory in (one, two)
    )
    assert torch.equal(wanted["table"]["row_ids"], found["table"]["row_ids"])
    for group in ("dense", "table"):
        for name, tensor in wanted[group].items():
            torch.testing.assert_close(found[group][name], tensor, atol=1e-4, rtol=1e-3)

    resumed = Session(CONFIG, alone, starts={0: 0, 1: 0}, code_revision="tested")
    resumed.resume(two)
    again = resumed.checkpoint()
    assert again is not None
    assert resumed.step == NUM_STEPS
    for group, tensors in found.items():
        for name, tensor in tensors.items():
            assert torch.equal(again.tensors[group][name], tensor), (group, name)


def test_negatives_are_a_function_of_seed_and_step_and_cover_the_rows_evenly() -> None:
    assert np.array_equal(draw_rows(50, 20, seed=3, step=7), draw_rows(50, 20, seed=3, step=7))
    assert not np.array_equal(draw_rows(50, 20, seed=3, step=7), draw_rows(50, 20, seed=3, step=8))
    assert not np.array_equal(draw_rows(50, 20, seed=3, step=7), draw_rows(50, 20, seed=4, step=7))
    drawn = np.concatenate([draw_rows(50, 128, seed=0, step=step) for step in range(400)])
    counts = np.bincount(drawn, minlength=51)
    assert counts[0] == 0
    assert np.abs(counts[1:] / counts.sum() * 50 - 1).max() < 0.15
    assert len(draw_rows(0, 20, seed=0, step=0)) == 0
