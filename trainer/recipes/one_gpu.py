"""One GPU: needs fbgemm-gpu in place of fbgemm-gpu-cpu."""

from __future__ import annotations

from trainer.config import TrainerConfig
from trainer.model.config import ModelConfig, Tasks


def one_gpu(tasks: Tasks) -> TrainerConfig:
    """Four layers of width 128, history 1,024, a table of 10 million rows (5 GB)."""
    return TrainerConfig(
        model=ModelConfig(
            tasks=tasks,
            embedding_dim=128,
            num_layers=4,
            num_heads=4,
            qk_dim=32,
            value_dim=32,
            hidden_dim=256,
            max_history=1024,
            max_positions=1024,
            attention_divisor=1024.0,
        ),
        table_rows=10_000_000,
        token_budget=131_072,
        max_buffered_tokens=1 << 23,
        num_negatives=1024,
        dense_learning_rate=1e-3,
        table_learning_rate=0.03,
        device="cuda",
    )
