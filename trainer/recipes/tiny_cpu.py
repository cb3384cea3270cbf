"""A laptop: a model that keeps up with a demo's stream on one core."""

from __future__ import annotations

from trainer.config import TrainerConfig
from trainer.model.config import ModelConfig, Tasks


def tiny_cpu(tasks: Tasks) -> TrainerConfig:
    """Two layers of width 32, history 128, a table of 131,072 rows."""
    return TrainerConfig(
        model=ModelConfig(
            tasks=tasks,
            embedding_dim=32,
            num_layers=2,
            num_heads=2,
            qk_dim=16,
            value_dim=16,
            max_history=128,
            attention_divisor=128.0,
            counted_rates=True,
        ),
        table_rows=1 << 17,
        token_budget=4096,
        dense_learning_rate=1e-3,
        table_learning_rate=0.05,
    )
