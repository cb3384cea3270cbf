"""A batch of users as tensors: what the model reads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from features.sequence_reader import ALL_BITS, SequenceColumns
from ingest.runtime.errors import FreshetError
from kernels.jagged import offsets_of, positions_of, sequence_of


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """B users' tokens, T in all, laid end to end in time order; a user's targets are his last rows.

    `changed` says which bits of a target are news: all of them, but in a correction only those that
    a late event has set.

    Shapes: `user_ids`, `num_targets` int64[B]; `offsets` int64[B+1]; `changed` int64[M] of the M
    targets; all else int64[T].
    Units: `times_ms` UTC, `watch_ms` milliseconds, `price_minor` minor units of the currency.

    Example:
        >>> batch = TokenBatch.of_items(user_ids=[7], item_ids=[[1, 2, 3]], num_targets=[1])
        >>> batch.is_target.tolist()
        [False, False, True]
    """

    user_ids: Tensor
    offsets: Tensor
    num_targets: Tensor
    item_ids: Tensor
    times_ms: Tensor
    actions: Tensor
    watch_ms: Tensor
    price_minor: Tensor
    changed: Tensor

    @classmethod
    def from_columns(
        cls, columns: SequenceColumns, *, max_history: int | None = None
    ) -> TokenBatch:
        """Take decoded messages, of each only the newest `max_history` history tokens.

        Raises:
            FreshetError: `max_history` is negative.
        """
        if max_history is not None and max_history < 0:
            raise FreshetError("max_history is negative", detail=f"It is {max_history}.")
        lengths = np.diff(columns.offsets)
        tokens = columns.tokens
        if max_history is not None:
            kept = np.minimum(lengths - columns.num_targets, max_history) + columns.num_targets
            if bool((kept < lengths).any()):
                tokens = tokens[_last_rows(columns.offsets[1:], kept)]
                lengths = kept
        return cls(
            user_ids=_int64(columns.user_ids),
            offsets=offsets_of(_int64(lengths)),
            num_targets=_int64(columns.num_targets),
            item_ids=_int64(tokens["item_id"]),
            times_ms=_int64(tokens["event_time_ms"]),
            actions=_int64(tokens["actions"]),
            watch_ms=_int64(tokens["watch_ms"]),
            price_minor=_int64(tokens["price_minor"]),
            changed=_int64(columns.changed),
        )

    @classmethod
    def of_items(
        cls, *, user_ids: list[int], item_ids: list[list[int]], num_targets: list[int]
    ) -> TokenBatch:
        """Tokens with items only: times, actions, watch and price are 0."""
        lengths = torch.tensor([len(items) for items in item_ids], dtype=torch.int64)
        flat = torch.tensor([item for items in item_ids for item in items], dtype=torch.int64)
        zeros = torch.zeros_like(flat)
        return cls(
            user_ids=torch.tensor(user_ids, dtype=torch.int64),
            offsets=offsets_of(lengths),
            num_targets=torch.tensor(num_targets, dtype=torch.int64),
            item_ids=flat,
            times_ms=zeros,
            actions=zeros,
            watch_ms=zeros,
            price_minor=zeros,
            changed=torch.full((sum(num_targets),), ALL_BITS),
        )

    def __len__(self) -> int:
        """How many users."""
        return len(self.user_ids)

    @property
    def num_tokens(self) -> int:
        """T, history and targets."""
        return len(self.item_ids)

    @cached_property
    def lengths(self) -> Tensor:
        """Tokens of each user, int64[B]."""
        return self.offsets.diff()

    @cached_property
    def is_target(self) -> Tensor:
        """Which tokens are targets, bool[T]."""
        history = self.lengths - self.num_targets
        return positions_of(self.lengths) >= torch.repeat_interleave(history, self.lengths)

    @cached_property
    def target_index(self) -> Tensor:
        """The targets' rows, int64[M]."""
        return self.is_target.nonzero()[:, 0]

    @cached_property
    def is_correction(self) -> Tensor:
        """Which targets were one before, bool[M]."""
        return self.changed != ALL_BITS

    @cached_property
    def target_user(self) -> Tensor:
        """The user (row of `user_ids`) of each target, int64[M]."""
        return sequence_of(self.num_targets)


def _last_rows(ends: npt.NDArray[np.int64], kept: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    starts = np.repeat(ends - np.cumsum(kept), kept)
    rows: npt.NDArray[np.int64] = starts + np.arange(int(kept.sum()))
    return rows


def _int64(values: npt.NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))
