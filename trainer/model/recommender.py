"""The recommender: item rows come in from outside, everything dense lives here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ingest.runtime.errors import FreshetError
from kernels import intervals
from kernels.jagged import concat_index, gather, offsets_of, positions_of
from trainer.batch import TokenBatch
from trainer.model.config import ModelConfig
from trainer.model.heads import RankingHead, RetrievalHead
from trainer.model.hstu import Past, View
from trainer.model.registry import find
from trainer.model.tokens import TokenEncoder


@dataclass(frozen=True, kw_only=True)
class ModelOutput:
    """What a forward says of M targets.

    Shapes: `task_logits` [M,tasks]; `query` [M,E], norm 1, from the history alone.
    """

    task_logits: Tensor
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
    """Ranks targets and makes retrieval queries; E is `config.embedding_dim` throughout.

    Items come in as rows [..,W], W being `config.item_width`: E learned values, then, where the model
    reads counted rates, what was counted of the item.

    Targets of one message attend its history and themselves, never each other (HSTU's M-FALCON,
    Zhai et al. 2024, section 3.4), so training's `forward` and serving's `encode` + `score` agree.

    `attention_backend` is how this machine computes attention, no property of the weights: a name of
    `kernels.interval_attention.dispatch.BACKENDS`, or "auto". `rematerialize`: see `HSTU`.

    Example:
        >>> model = Recommender(ModelConfig(tasks=(("like", 8),)))
        >>> batch = TokenBatch.of_items(user_ids=[7], item_ids=[[1, 2, 3]], num_targets=[2])
        >>> model(batch, torch.zeros(3, 32)).task_logits.shape
        torch.Size([2, 1])
    """

    def __init__(
        self, config: ModelConfig, attention_backend: str = "auto", *, rematerialize: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.tokens = TokenEncoder(config)
        backbone = find("backbone", config.backbone)
        self.backbone: Any = backbone(config, attention_backend, rematerialize=rematerialize)
        self.final_norm = nn.LayerNorm(config.embedding_dim)
        self.start_state = nn.Parameter(torch.randn(config.embedding_dim) * 0.1)
        self.ranking = RankingHead(config)
        self.retrieval = RetrievalHead(config)

    def forward(self, batch: TokenBatch, item_rows: Tensor) -> ModelOutput:
        """Score a batch's M targets from their histories.

        Shapes: item_rows [T,W], one row per token.

        Raises:
            FreshetError: item_rows of another shape.
        """
        self._check_rows("item_rows", item_rows, batch.num_tokens)
        item_embeddings, counted = self._split(item_rows)
        view = _batch_view(batch)
        states = self.backbone(self.tokens(batch, item_embeddings), view)
        states = self.final_norm(states)
        user_state = self._user_state(states, batch.offsets, batch.lengths - batch.num_targets)
        logits = self.ranking(
            states.index_select(0, batch.target_index),
            item_embeddings.index_select(0, batch.target_index),
            user_state.index_select(0, batch.target_user),
            counted.index_select(0, batch.target_index),
        )
        query = self.retrieval.query(user_state).index_select(0, batch.target_user)
        return ModelOutput(task_logits=logits, query=query)

    def encode(self, history: TokenBatch, item_rows: Tensor) -> HistoryCache:
        """Encode histories once, for any number of `score` calls.

        Shapes: item_rows [T,W], one row per token; `history` has no targets.

        Raises:
            FreshetError: `history` has targets, or item_rows of another shape.
        """
        self._check_rows("item_rows", item_rows, history.num_tokens)
        if bool(history.num_targets.any()):
            raise FreshetError(
                "history has targets", detail=f"{int(history.num_targets.sum())}; wanted none."
            )
        tokens = self.tokens(history, self._split(item_rows)[0])
        states, keys, values = self.backbone.encode(tokens, _batch_view(history))
        state = self._user_state(self.final_norm(states), history.offsets, history.lengths)
        return HistoryCache(
            keys=keys,
            values=values,
            offsets=history.offsets,
            times_ms=history.times_ms,
            state=state,
            query=self.retrieval.query(state),
        )

    def score(
        self, cache: HistoryCache, user_index: Tensor, item_rows: Tensor, times_ms: Tensor
    ) -> Tensor:
        """Score M candidates against cached histories; how they are split over calls is irrelevant.

        Shapes: user_index int64[M] ascending, rows of the cache; item_rows [M,W]; times_ms
        int64[M], when each would be shown -> task logits [M,tasks].

        Raises:
            FreshetError: shapes that differ, or a user_index out of order or range.
        """
        self._check_rows("item_rows", item_rows, len(user_index))
        item_embeddings, counted = self._split(item_rows)
        view, columns = _candidate_view(cache, user_index, times_ms)
        past = Past(keys=cache.keys, values=cache.values, columns=columns)
        states = self.backbone(self.tokens.candidates(item_embeddings), view, past)
        user_state = cache.state.index_select(0, user_index)
        states = self.final_norm(states)
        logits: Tensor = self.ranking(states, item_embeddings, user_state, counted)
        return logits

    def item_vectors(self, item_rows: Tensor) -> Tensor:
        """Item rows, [R,W] or their learned part [R,E], as retrieval vectors [R,E], norm 1.

        query @ vector is the similarity.
        """
        return self.retrieval.item_vectors(self._split(item_rows)[0])

    def _split(self, item_rows: Tensor) -> tuple[Tensor, Tensor]:
        width = self.config.embedding_dim
        return item_rows[:, :width], item_rows[:, width:]

    def _user_state(self, states: Tensor, offsets: Tensor, history_lengths: Tensor) -> Tensor:
        """The last history row's state, or the learned start where there is no history: [B,E]."""
        return gather(states, offsets.diff(), history_lengths - 1, self.start_state)

    def _check_rows(self, name: str, rows: Tensor, num_rows: int) -> None:
        wanted = (num_rows, self.config.item_width)
        if rows.shape != wanted:
            raise FreshetError(
                f"{name} of another shape", detail=f"{tuple(rows.shape)}, wanted {wanted}."
            )


def _batch_view(batch: TokenBatch) -> View:
    history = batch.lengths - batch.num_targets
    return View(
        q_offsets=batch.offsets,
        kv_offsets=batch.offsets,
        intervals=intervals.target_aware(batch.lengths, batch.num_targets),
        q_positions=torch.minimum(
            positions_of(batch.lengths), torch.repeat_interleave(history, batch.lengths)
        ),
        q_times_ms=batch.times_ms,
        kv_times_ms=batch.times_ms,
    )


def _candidate_view(
    cache: HistoryCache, user_index: Tensor, times_ms: Tensor
) -> tuple[View, Tensor]:
    """Candidates as rows, [history; candidates] of each user as columns."""
    num_users = len(cache.offsets) - 1
    in_order = user_index.dtype == torch.int64 and not bool((user_index.diff() < 0).any())
    if not in_order or (
        len(user_index) and not 0 <= int(user_index[0]) <= int(user_index[-1]) < num_users
    ):
        raise FreshetError(
            "user_index refused",
            detail=f"Wanted int64, ascending, in 0..{num_users - 1}; seen {user_index.dtype} "
            f"{user_index.tolist()[:8]}.",
        )
    if times_ms.shape != user_index.shape:
        raise FreshetError("times_ms of another shape", detail=f"{tuple(times_ms.shape)}.")
    history = cache.offsets.diff()
    num_candidates = torch.bincount(user_index, minlength=num_users)
    columns = concat_index(history, num_candidates)
    view = View(
        q_offsets=offsets_of(num_candidates),
        kv_offsets=offsets_of(history + num_candidates),
        intervals=intervals.candidates(history, num_candidates),
        q_positions=history.index_select(0, user_index),
        q_times_ms=times_ms,
        kv_times_ms=torch.cat([cache.times_ms, times_ms]).index_select(0, columns),
    )
    return view, columns
