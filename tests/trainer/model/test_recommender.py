"""What the model promises: no leaks, parity of training and serving, independence of the batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from features.sequence_reader import ALL_BITS
from ingest.runtime.errors import ConfigError, FreshetError
from kernels.jagged import offsets_of, positions_of
from trainer.batch import TokenBatch
from trainer.model.config import ModelConfig
from trainer.model.losses import labels, ranking_loss, sampled_softmax_loss
from trainer.model.recommender import HistoryCache, Recommender

CONFIG = ModelConfig(
    tasks=(("like", 8), ("click", 2)), embedding_dim=8, qk_dim=4, value_dim=4, hidden_dim=8,
    counted_rates=True,
)  # fmt: skip


def make_model(seed: int = 0) -> Recommender:
    torch.manual_seed(seed)
    model = Recommender(CONFIG)
    assert model.ranking.counted is not None
    for weight in model.ranking.counted.parameters():  # begins at 0, where nothing would be seen
        torch.nn.init.normal_(weight, std=0.3)
    return model


def make_batch(history: list[int], targets: list[int], seed: int = 0) -> tuple[TokenBatch, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    num_targets = torch.tensor(targets, dtype=torch.int64)
    lengths = torch.tensor(history, dtype=torch.int64) + num_targets
    total = int(lengths.sum())

    def column(high: int) -> Tensor:
        return torch.randint(0, high, (total,), generator=generator)

    batch = TokenBatch(
        user_ids=torch.arange(len(history)),
        offsets=offsets_of(lengths),
        num_targets=num_targets,
        item_ids=column(50),
        times_ms=positions_of(lengths) * 3_600_000 + column(3_600_000),
        actions=column(1 << 27),
        watch_ms=column(2**32),
        price_minor=column(2**53),
        changed=torch.full((int(num_targets.sum()),), ALL_BITS),
    )
    return batch, torch.randn(total, CONFIG.item_width, generator=generator)


def history_of(batch: TokenBatch) -> TokenBatch:
    keep = ~batch.is_target
    return TokenBatch(
        user_ids=batch.user_ids,
        offsets=offsets_of(batch.lengths - batch.num_targets),
        num_targets=torch.zeros_like(batch.num_targets),
        item_ids=batch.item_ids[keep],
        times_ms=batch.times_ms[keep],
        actions=batch.actions[keep],
        watch_ms=batch.watch_ms[keep],
        price_minor=batch.price_minor[keep],
        changed=batch.changed[:0],
    )


def cache_of(model: Recommender, batch: TokenBatch, items: Tensor) -> HistoryCache:
    return model.encode(history_of(batch), items[~batch.is_target])


def only(batch: TokenBatch, user: int) -> TokenBatch:
    """One user of a batch."""
    lo, hi = int(batch.offsets[user]), int(batch.offsets[user + 1])
    of_tokens = ("item_ids", "times_ms", "actions", "watch_ms", "price_minor")
    return TokenBatch(
        user_ids=batch.user_ids[user : user + 1],
        offsets=torch.tensor([0, hi - lo]),
        num_targets=batch.num_targets[user : user + 1],
        changed=batch.changed[batch.target_user == user],
        **{name: getattr(batch, name)[lo:hi] for name in of_tokens},
    )


@pytest.mark.parametrize("field", ["actions", "watch_ms", "price_minor"])
def test_what_was_done_to_a_target_never_reaches_the_forward(field: str) -> None:
    model, (batch, items) = make_model(), make_batch([5, 0, 3], [2, 1, 4])
    changed = torch.where(batch.is_target, torch.zeros(()).long(), getattr(batch, field))
    before, after = model(batch, items), model(replace(batch, **{field: changed}), items)
    for name in ("task_logits", "query"):
        assert torch.equal(getattr(before, name), getattr(after, name))


@pytest.mark.parametrize("field", ["actions", "watch_ms", "price_minor"])
def test_what_was_done_in_the_history_changes_every_answer(field: str) -> None:
    model, (batch, items) = make_model(), make_batch([5, 1, 3], [2, 1, 4])
    changed = torch.where(batch.is_target, getattr(batch, field), torch.zeros(()).long())
    before, after = model(batch, items), model(replace(batch, **{field: changed}), items)
    assert (before.task_logits != after.task_logits).any(1).all()
    assert (before.query != after.query).any(1).all()


def test_targets_do_not_see_each_other_and_queries_see_none() -> None:
    model, (batch, items) = make_model(), make_batch([5, 0], [3, 2])
    changed = items.clone()
    changed[6] += 1.0
    other_time = batch.times_ms.clone()
    other_time[6] += 86_400_000
    before, after = model(batch, items), model(replace(batch, times_ms=other_time), changed)
    same = torch.tensor([True, False, True, True, True])
    torch.testing.assert_close(before.task_logits[same], after.task_logits[same], rtol=0, atol=1e-6)
    assert not torch.allclose(before.task_logits[1], after.task_logits[1], atol=1e-4)
    torch.testing.assert_close(before.query, after.query, rtol=0, atol=1e-6)


def test_the_order_of_targets_does_not_matter() -> None:
    model, (batch, items) = make_model(), make_batch([5], [3])
    order = torch.tensor([0, 1, 2, 3, 4, 7, 5, 6])
    shuffled = replace(batch, times_ms=batch.times_ms[order])
    before, after = model(batch, items), model(shuffled, items[order])
    torch.testing.assert_close(before.task_logits[[2, 0, 1]], after.task_logits, rtol=0, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), min_size=1, max_size=5),
    st.integers(1, 9),
)
def test_encode_and_score_equal_the_forward_for_any_micro_batch(
    users: list[tuple[int, int]], micro_batch: int
) -> None:
    model = make_model()
    batch, items = make_batch([user[0] for user in users], [user[1] for user in users])
    output = model(batch, items)
    cache = cache_of(model, batch, items)
    parts = [
        model.score(
            cache,
            batch.target_user[lo : lo + micro_batch],
            items[batch.target_index][lo : lo + micro_batch],
            batch.times_ms[batch.target_index][lo : lo + micro_batch],
        )
        for lo in range(0, max(len(batch.target_index), 1), micro_batch)
    ]
    torch.testing.assert_close(torch.cat(parts), output.task_logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(cache.query[batch.target_user], output.query, rtol=0, atol=1e-5)


def test_a_user_alone_gets_the_answer_he_gets_in_company() -> None:
    model, (batch, items) = make_model(), make_batch([5, 0, 90, 33], [2, 1, 4, 3])
    together = model(batch, items).task_logits.split(batch.num_targets.tolist())
    for user in range(len(batch)):
        lo, hi = int(batch.offsets[user]), int(batch.offsets[user + 1])
        alone = model(only(batch, user), items[lo:hi]).task_logits
        torch.testing.assert_close(alone, together[user], rtol=0, atol=1e-6)


def test_another_users_nan_stays_with_him() -> None:
    model, (batch, items) = make_model(), make_batch([5, 4, 6], [2, 1, 4])
    expected = model(batch, items).task_logits
    items[7:12] = torch.nan
    poisoned = model(batch, items).task_logits
    assert poisoned[2].isnan().all()
    kept = [0, 1, 3, 4, 5, 6]
    torch.testing.assert_close(poisoned[kept], expected[kept], rtol=0, atol=1e-6)


def test_gradients_reach_every_parameter_and_the_item_rows() -> None:
    model, (batch, items) = make_model(), make_batch([5, 0, 9], [2, 1, 4])
    items.requires_grad_()
    output = model(batch, items)
    positive = model.item_vectors(items[batch.target_index])
    truth = labels(batch.actions[batch.target_index], (8, 2))
    loss = ranking_loss(output.task_logits, truth, torch.ones_like(truth))
    loss = loss + sampled_softmax_loss(
        output.query,
        positive,
        positive.detach().roll(1, 0),
        positive_log_q=torch.zeros(7),
        negative_log_q=torch.zeros(7),
        positive_ids=torch.arange(7),
        negative_ids=torch.arange(7).roll(1),
        temperature=0.1,
    )
    loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert items.grad is not None
    assert items.grad.any(1).all()


def test_the_same_seed_builds_the_same_model() -> None:
    one, two, other = make_model(3), make_model(3), make_model(4)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.start_state, other.start_state)


def test_a_batch_without_users_gives_no_answers() -> None:
    batch, items = make_batch([], [])
    assert make_model()(batch, items).task_logits.shape == (0, 2)


def test_what_is_counted_of_an_item_reaches_its_own_score_and_nothing_else() -> None:
    model, (batch, items) = make_model(), make_batch([5, 0], [3, 2])
    counted = torch.zeros_like(items)
    counted[:, CONFIG.embedding_dim :] = 1.0
    before = model(batch, items)
    of_history = model(batch, items + counted * ~batch.is_target[:, None])
    assert torch.equal(of_history.task_logits, before.task_logits)
    one = torch.zeros_like(counted)
    one[batch.target_index[1]] = counted[batch.target_index[1]]
    after = model(batch, items + one)
    moved = (after.task_logits != before.task_logits).any(1)
    assert moved.tolist() == [False, True, False, False, False]
    assert torch.equal(after.query, before.query)
    assert torch.equal(model.item_vectors(items + counted), model.item_vectors(items))


def test_refusals_name_what_is_wrong() -> None:
    model, (batch, items) = make_model(), make_batch([5, 2], [2, 1])
    with pytest.raises(FreshetError, match="item_rows"):
        model(batch, items[1:])
    with pytest.raises(FreshetError, match="history has targets"):
        model.encode(batch, items)
    cache = cache_of(model, batch, items)
    for index in ([1, 0], [0, 2], [-1, 0]):
        with pytest.raises(FreshetError, match="user_index"):
            model.score(cache, torch.tensor(index), items[:2], torch.zeros(2).long())
    with pytest.raises(FreshetError, match="times_ms"):
        model.score(cache, torch.tensor([0, 1]), items[:2], torch.zeros(3).long())
    with pytest.raises(ConfigError, match=r"none of .*hstu"):
        Recommender(replace(CONFIG, backbone="nosuch"))


def test_an_unknown_attention_backend_is_refused_before_anything_is_computed() -> None:
    with pytest.raises(FreshetError, match="refuses backend"):
        Recommender(CONFIG, "nosuch")


def test_the_attention_backend_changes_no_weight_and_hardly_a_score() -> None:
    fast, slow = Recommender(CONFIG, "cpu"), Recommender(CONFIG, "reference")
    slow.load_state_dict(fast.state_dict())
    batch = TokenBatch.of_items(user_ids=[7], item_ids=[[1, 2, 3, 4]], num_targets=[2])
    rows = torch.randn(4, CONFIG.item_width)
    torch.testing.assert_close(fast(batch, rows).task_logits, slow(batch, rows).task_logits)
