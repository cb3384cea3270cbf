"""Runs of the training loop over a recorded stream, and what must be the same of two of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ingest.runtime.kafka import Record
from ingest.runtime.service import StopSignal
from tests.trainer.streams import TASKS, Buried, RecordedReader, end_ms
from trainer.checkpoint import Checkpoint
from trainer.config import RunConfig, TrainerConfig
from trainer.export import Position
from trainer.loop import train
from trainer.model.config import ModelConfig
from trainer.ne_log import StepLine
from trainer.ranks import Ranks
from trainer.session import Session
from trainer.stream import MessageBatch

NUM_MESSAGES = 120
CONFIG = TrainerConfig(
    model=ModelConfig(
        tasks=TASKS, embedding_dim=8, num_layers=1, num_heads=1, qk_dim=8, value_dim=8,
        hidden_dim=16, max_history=16, max_positions=16, attention_divisor=16.0,
        counted_rates=True,
    ),
    table_rows=64,
    token_budget=48,
    num_negatives=8,
    window_targets=50,
    auc_window_targets=40,
    rate_half_life_seconds=20.0,
)  # fmt: skip


def run_config(directory: Path, **changes: object) -> RunConfig:
    run = RunConfig(
        checkpoint_dir=directory / "checkpoints",
        export_dir=directory / "exports",
        ne_log=directory / "ne.jsonl",
        checkpoint_every_steps=3,
        export_every_seconds=3600.0,
        deterministic=True,
        stop_at_clock_ms=end_ms(NUM_MESSAGES),
    )
    return replace(run, **changes)


def run_once(
    directory: Path,
    ranks: Ranks,
    *,
    records: list[Record],
    seed: int = 0,
    config: TrainerConfig = CONFIG,
    stop: StopSignal | None = None,
    buried: Buried | None = None,
    **changes: object,
) -> Session:
    def open_reader(positions: dict[int, Position]) -> RecordedReader:
        return RecordedReader(records, {p: at.offset for p, at in positions.items()}, seed=seed)

    return train(
        config,
        run_config(directory, **changes),
        ranks=ranks,
        starts={0: 0, 1: 0},
        open_reader=open_reader,
        graveyard=buried or Buried(),
        stop=stop or StopSignal(),
    )


class Killed(Exception):
    """Ends a run in the middle of a step."""


def run_killed(
    directory: Path, ranks: Ranks, kill_at: int, patch: pytest.MonkeyPatch, **of_run: Any
) -> None:
    """A run that ends without a word after a step."""
    train_step = Session.train

    def dying(self: Session, batch: MessageBatch | None) -> StepLine:
        line = train_step(self, batch)
        if self.step == kill_at:
            raise Killed
        return line

    with patch.context() as patched:
        patched.setattr(Session, "train", dying)
        with pytest.raises(Killed):
            run_once(directory, ranks, **of_run)


def contents(session: Session) -> Checkpoint:
    checkpoint = session.checkpoint()
    assert checkpoint is not None
    return checkpoint


def assert_same(left: Checkpoint, right: Checkpoint) -> None:
    assert left.state == right.state
    for group, tensors in left.tensors.items():
        assert tensors.keys() == right.tensors[group].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, right.tensors[group][name]), (group, name)
