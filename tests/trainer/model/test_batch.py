"""Batches against the messages they come from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from features.sequence_reader import ALL_BITS, SequenceColumns, decode_columns
from features.sequences import TOKEN, encode_targets
from ingest.runtime.errors import FreshetError
from trainer.batch import TokenBatch

users = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), max_size=5)


def columns_of(counts: list[tuple[int, int]]) -> SequenceColumns:
    messages, first = [], 0
    for user, (history, targets) in enumerate(counts):
        tokens = np.zeros(history + targets, TOKEN)
        for index, name in enumerate(TOKEN.names):
            tokens[name] = np.arange(first, first + len(tokens)) * 10 + index
        first += len(tokens)
        messages.append(
            encode_targets(
                partition=0, user_id=user, clock_ms=0, first_offset=0, last_offset=0,
                lifetime_tokens=history, tokens=tokens.tobytes(), target_offsets=[0] * targets,
            )
        )  # fmt: skip
    return decode_columns(messages)


@given(users, st.integers(0, 7))
def test_truncation_keeps_the_newest_history_and_every_target(
    counts: list[tuple[int, int]], max_history: int
) -> None:
    columns = columns_of(counts)
    batch = TokenBatch.from_columns(columns, max_history=max_history)
    expected_items, expected_targets, at = [], [], 0
    for history, targets in counts:
        dropped = max(0, history - max_history)
        expected_items += range(at + dropped, at + history + targets)
        expected_targets += [False] * (history - dropped) + [True] * targets
        at += history + targets
    assert batch.item_ids.tolist() == [item * 10 for item in expected_items]
    assert batch.is_target.tolist() == expected_targets
    assert batch.target_index.tolist() == np.flatnonzero(expected_targets).tolist()
    assert batch.target_user.tolist() == [u for u, (_, t) in enumerate(counts) for _ in range(t)]
    assert batch.num_tokens == len(expected_items)


def test_every_field_of_a_token_arrives_in_its_own_column() -> None:
    batch = TokenBatch.from_columns(columns_of([(1, 1)]))
    assert TOKEN.names == ("item_id", "event_time_ms", "price_minor", "watch_ms", "actions")
    assert batch.item_ids.tolist() == [0, 10]
    assert batch.times_ms.tolist() == [1, 11]
    assert batch.price_minor.tolist() == [2, 12]
    assert batch.watch_ms.tolist() == [3, 13]
    assert batch.actions.tolist() == [4, 14]
    assert batch.changed.tolist() == [ALL_BITS]
    assert all(getattr(batch, name).dtype == torch.int64 for name in batch.__dataclass_fields__)


def test_the_batch_owns_its_memory() -> None:
    columns = columns_of([(1, 0)])
    batch = TokenBatch.from_columns(columns)
    batch.item_ids[0] = 99
    assert columns.tokens["item_id"][0] == 0


def test_a_negative_history_bound_is_refused() -> None:
    with pytest.raises(FreshetError, match="negative"):
        TokenBatch.from_columns(columns_of([]), max_history=-1)
