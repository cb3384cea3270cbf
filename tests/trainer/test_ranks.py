"""Two ranks against one on the same global batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from deploy.ports import free_ports
from tests.trainer.test_eviction import evicted
from tests.trainer.two_ranks import CONFIG, NUM_STEPS, train_fixed, worker
from trainer.checkpoint import list_checkpoints, read_checkpoint
from trainer.ne_log import read_ne_log
from trainer.ranks import Ranks
from trainer.session import Session


def test_two_ranks_train_the_same_global_batches_to_the_same_curve_and_weights(
    alone: Ranks, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    before = evicted("idle"), evicted("full")
    train_fixed(one, alone)
    assert evicted("idle") > before[0]
    assert evicted("full") > before[1]
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
    for name, values in wanted["idmap"].items():
        assert torch.equal(values, found["idmap"][name]), name
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
