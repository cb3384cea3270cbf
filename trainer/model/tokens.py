"""What a token is to the model: its item, what was done to it, how long and at what price."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from trainer.batch import TokenBatch
from trainer.model.config import ModelConfig


class TokenEncoder(nn.Module):
    """Item row + action bits + watch time + price; of a target the item row and nothing else."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.embedding_dim
        self.item = nn.Linear(width, width)
        self.actions = nn.Parameter(torch.randn(config.action_bits, width) * 0.1)
        self.watch = nn.Parameter(torch.randn(config.num_watch_buckets, width) * 0.1)
        self.price = nn.Parameter(torch.randn(config.num_price_buckets, width) * 0.1)
        self.unknown_action = nn.Parameter(torch.randn(width) * 0.1)

    def forward(self, batch: TokenBatch, item_embeddings: Tensor) -> Tensor:
        """Shapes: item_embeddings [T,E] -> [T,E]."""
        bits = torch.arange(len(self.actions), device=batch.actions.device)
        done = ((batch.actions[:, None] >> bits) & 1).to(self.actions.dtype) @ self.actions
        done = done + self.watch.index_select(0, _octave(batch.watch_ms // 1000, len(self.watch)))
        done = done + self.price.index_select(0, _octave(batch.price_minor, len(self.price)))
        # Whatever a target carries is replaced here, so no label can reach its own score.
        done = torch.where(batch.is_target[:, None], self.unknown_action, done)
        item: Tensor = self.item(item_embeddings)
        return item + done

    def candidates(self, item_embeddings: Tensor) -> Tensor:
        """Candidates' tokens, as targets': [M,E] -> [M,E]."""
        item: Tensor = self.item(item_embeddings)
        return item + self.unknown_action


def _octave(amount: Tensor, num_buckets: int) -> Tensor:
    """0 for 0, else 1 + floor(log2(amount)), at most num_buckets - 1."""
    return torch.bucketize(amount, _powers_of_two(num_buckets).to(amount.device), right=True)


@cache
def _powers_of_two(num_buckets: int) -> Tensor:
    return torch.tensor([1 << min(power, 62) for power in range(num_buckets - 1)])
