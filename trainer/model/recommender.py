"""The recommender: item rows come in from outside, everything dense lives here."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from trainer.batch import TokenBatch
from trainer.model.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class ModelOutput:
    """What a forward says of M targets.

    Shapes: `task_logits` [M,tasks]; `target_states` [M,E]; `query` [M,E], norm 1, from the history
    alone.
    """

    task_logits: Tensor
    target_states: Tensor
    query: Tensor


@dataclass(frozen=True, kw_only=True)
class HistoryCache:
    """B users' encoded histories, T tokens in all: enough to score any candidate.

    Shapes: `keys[layer]` [T,H,D]; `values[layer]` [T,H,V]; `offsets` int64[B+1]; `times_ms`
    int64[T]; `state` [B,E]; `query` [B,E], norm 1.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    offsets: Tensor
    times_ms: Tensor
    state: Tensor
    query: Tensor


class Recommender(nn.Module):
    """Ranks targets and makes retrieval queries."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, batch: TokenBatch, item_embeddings: Tensor) -> ModelOutput:
        """Score a batch's targets from its histories; item_embeddings [T,E], one row per token."""
        raise NotImplementedError

    def encode(self, history: TokenBatch, item_embeddings: Tensor) -> HistoryCache:
        """Encode histories (no targets) once, for `score`; item_embeddings [T,E]."""
        raise NotImplementedError

    def score(
        self, cache: HistoryCache, user_index: Tensor, item_embeddings: Tensor, times_ms: Tensor
    ) -> Tensor:
        """Score candidates: user_index int64[M] ascending, item_embeddings [M,E], times_ms int64[M] -> [M,tasks]."""
        raise NotImplementedError

    def item_vectors(self, item_embeddings: Tensor) -> Tensor:
        """Item rows [R,E] as retrieval vectors [R,E], norm 1: query @ vector is the similarity."""
        raise NotImplementedError
