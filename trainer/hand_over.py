"""What of a checkpoint is handed to the publisher."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from trainer.checkpoint import Checkpoint
from trainer.export import Export, TaskQuality
from trainer.quality import TaskRecord
from trainer.rates import ItemRates


def describe_export(checkpoint: Checkpoint) -> Export:
    """The export contract's description of what a checkpoint holds."""
    state = checkpoint.state
    return Export(
        step=state.step,
        num_targets=state.num_targets,
        positions=state.positions,
        watermark_ms=min(at.clock_ms for at in state.positions.values()),
        quality={task: _task_quality(record) for task, record in state.quality.items()},
        model=state.config["model"],
        config=state.config,
        schema=state.schema,
        code_revision=state.code_revision,
        exported_at_ms=time.time_ns() // 1_000_000,
    )


def _task_quality(record: TaskRecord) -> TaskQuality:
    return TaskQuality(
        ne_lifetime=record.lifetime.ne,
        ne_window=record.window.total().ne,
        num_targets=record.lifetime.num_targets,
        num_positives=record.lifetime.num_positives,
    )


def export_table(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The table as the model reads it, counted rates at the checkpoint's clock behind each row."""
    weight = checkpoint.tensors["table"]["weight"]
    if checkpoint.state.config["model"]["counted_rates"]:
        state = {name: counts.numpy() for name, counts in checkpoint.tensors["rates"].items()}
        half_life_seconds = checkpoint.state.config["rate_half_life_seconds"]
        rates = ItemRates.from_state(state, half_life_seconds=half_life_seconds)
        counted = torch.from_numpy(rates.figures(np.arange(len(weight))))
        weight = torch.cat([weight, counted], dim=1)
    return {"item_weight": weight, "row_ids": checkpoint.tensors["idmap"]["row_ids"]}
