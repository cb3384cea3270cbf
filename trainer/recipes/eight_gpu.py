"""Eight GPUs of one machine, the table sharded by rows over them."""

from __future__ import annotations

from dataclasses import replace

from trainer.config import TrainerConfig
from trainer.model.config import Tasks
from trainer.recipes.one_gpu import one_gpu


def eight_gpu(tasks: Tasks) -> TrainerConfig:
    """Eight layers of width 256, history 4,096, a table of 200 million rows (26 GB a GPU)."""
    small = one_gpu(tasks)
    return replace(
        small,
        model=replace(
            small.model,
            embedding_dim=256,
            num_layers=8,
            num_heads=8,
            hidden_dim=512,
            max_history=4096,
            max_positions=4096,
            attention_divisor=4096.0,
        ),
        table_rows=200_000_000,
        num_negatives=4096,
    )
