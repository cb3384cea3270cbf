"""A loaded version answers as the trainer's forward would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from features.sequences import CONTEXT_BIT, context_id
from ingest.runtime.errors import FreshetError
from publisher.serving.config import ServingConfig
from publisher.serving.users import UserState, UserStates
from publisher.serving.version import ServedVersion, load_version
from publisher.snapshots import BadSnapshot, SnapshotStore, version_of
from tests.publisher.served import publish
from tests.publisher.tiny import (
    ITEM_IDS,
    WATERMARK_MS,
    correction_record,
    targets_record,
    tiny_model,
    tiny_table,
    tiny_tokens,
)
from tests.publisher.training import forward_logits


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    publish(root, 1)
    return root


def load(root: Path, step: int = 1, **limits: int) -> ServedVersion:
    config = ServingConfig(store=root / "store", **limits)
    return load_version(SnapshotStore(config.store, config.model_name), version_of(step), config)


@settings(max_examples=25)
@given(
    num_history=st.integers(0, 50),
    num_candidates=st.integers(1, 40),
    micro_batch=st.integers(1, 45),
    after_ms=st.integers(0, 10**10),
)
def test_scores_equal_the_training_forward_for_any_micro_batch(
    root: Path, num_history: int, num_candidates: int, micro_batch: int, after_ms: int
) -> None:
    history = tiny_tokens(num_history, num_history)
    candidates = np.random.default_rng(1).choice([*ITEM_IDS, 5], num_candidates)
    time_ms = WATERMARK_MS + 10**9 + after_ms
    served = load(root, micro_batch=micro_batch)
    scored = served.score(served.encode(history), candidates, time_ms)
    expected = forward_logits(history, candidates, time_ms)
    torch.testing.assert_close(scored, expected, atol=1e-5, rtol=0)


def test_retrieval_is_the_exact_top_of_the_catalogue_without_the_excluded(root: Path) -> None:
    served = load(root)
    history = served.encode(tiny_tokens(3, 20))
    excluded = np.array([ITEM_IDS[0], ITEM_IDS[5], 5, ITEM_IDS[0]])
    found = served.retrieve(history, 30, excluded=excluded)
    table, model = tiny_table(1), tiny_model(1)
    with torch.no_grad():
        similarity = model.item_vectors(table["item_weight"]) @ history.query[0]
    by_item = dict(zip(table["row_ids"].tolist(), similarity.tolist(), strict=True))
    allowed = [item for item in ITEM_IDS if item not in set(excluded.tolist())]
    best = sorted(allowed, key=lambda item: -by_item[item])[:30]
    assert found.item_ids.tolist() == best
    everything = served.retrieve(history, 10**6, excluded=excluded)
    assert sorted(everything.item_ids.tolist()) == sorted(allowed)


def test_an_encoded_history_is_reused_until_a_newer_message_comes(root: Path) -> None:
    served = load(root, cached_histories=1)
    first = state_of(7, 3, offset=1)
    assert served.encode_user(7, first) is served.encode_user(7, first)
    newer = state_of(7, 4, offset=2)
    assert len(served.encode_user(7, newer).times_ms) == 4
    assert served.encode_user(8, first) is not served.encode_user(7, newer)


def test_a_correction_is_encoded_anew(root: Path) -> None:
    served = load(root)
    tokens = tiny_tokens(0, 3)
    users = UserStates(max_users=1, max_history=100)
    users.apply([targets_record(7, tokens, offset=1)])
    first = users.get(7)
    assert first is not None
    before = served.encode_user(7, first)
    users.apply([correction_record(7, tokens[:2], 1 << 9, offset=2)])
    corrected = users.get(7)
    assert corrected is not None
    after = served.encode_user(7, corrected)
    tokens["actions"][1] |= 1 << 9
    assert not torch.equal(after.query, before.query)
    assert torch.equal(after.query, served.encode(tokens).query)


def test_a_feature_of_the_user_is_never_recommended(tmp_path: Path) -> None:
    table = tiny_table(1)
    context = context_id("country", "DE")
    table["row_ids"][3] = context
    publish(tmp_path, 1, table=table)
    served = load(tmp_path)
    tokens = tiny_tokens(0, 3)
    tokens["item_id"][0], tokens["actions"][0] = context, CONTEXT_BIT
    found = served.retrieve(served.encode(tokens), 10**6, excluded=np.empty(0, np.int64))
    assert len(found.item_ids) == served.num_items == len(ITEM_IDS) - 1
    assert context not in found.item_ids
    assert served.num_unknown(np.array([context])) == 0


def test_rows_between_that_are_free_are_never_recommended(tmp_path: Path) -> None:
    table = tiny_table(1)
    gone = table["row_ids"][[1, 7, len(ITEM_IDS)]].tolist()
    table["row_ids"][[1, 7, len(ITEM_IDS)]] = -1
    # As near to any user as a row can be.
    table["item_weight"][[1, 7]] *= 100.0
    publish(tmp_path, 1, table=table)
    served = load(tmp_path)
    found = served.retrieve(served.encode(tiny_tokens(0, 3)), 10**6, excluded=np.array([gone[0]]))
    assert sorted(found.item_ids.tolist()) == sorted(set(ITEM_IDS) - set(gone))
    assert served.num_items == len(ITEM_IDS) - 3
    assert served.num_unknown(np.array([*gone, ITEM_IDS[0]])) == 3 + (ITEM_IDS[0] in gone)


def state_of(user_id: int, num_tokens: int, offset: int) -> UserState:
    users = UserStates(max_users=1, max_history=100)
    users.apply([targets_record(user_id, tiny_tokens(0, num_tokens), offset=offset)])
    state = users.get(user_id)
    assert state is not None
    return state


def test_a_version_that_needs_longer_histories_than_are_kept_is_refused(root: Path) -> None:
    with pytest.raises(BadSnapshot, match="FRESHET_SERVING_MAX_HISTORY"):
        load(root, max_history=31)


@pytest.mark.parametrize("part", ["dense.safetensors", "table.safetensors", "manifest.json"])
def test_a_damaged_version_is_refused_by_name(tmp_path: Path, part: str) -> None:
    publish(tmp_path, 1)
    path = tmp_path / "store" / "freshet" / version_of(1) / part
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)
    with pytest.raises(FreshetError, match=part):
        load(tmp_path)
