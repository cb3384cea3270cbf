"""Labels and losses against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from features.sequence_reader import ALL_BITS
from trainer.model.losses import labels, news, ranking_loss, sampled_softmax_loss, shown


def test_a_label_is_one_where_any_bit_of_the_mask_is_set() -> None:
    actions = torch.tensor([0, 0b1000, 0b0110, 1 << 24])
    expected = [[0, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert labels(actions, (0b1000, 0b1010, 1 << 24)).tolist() == expected


def test_the_ranking_loss_is_a_sum_in_nats() -> None:
    logits = torch.tensor([[0.0, 2.0], [-1.0, 0.5]])
    truth = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    probabilities = logits.sigmoid()
    each = -(truth * probabilities.log() + (1 - truth) * (1 - probabilities).log())
    torch.testing.assert_close(ranking_loss(logits, truth, torch.ones(2, 2)), each.sum())
    half = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(ranking_loss(logits, truth, half), (each * half).sum())


def test_a_target_counts_among_its_own_kind_once_and_as_soon_as_it_is_of_that_kind() -> None:
    seen, click, like = 1, 2, 8
    actions = torch.tensor(
        [seen, seen | click, click, seen | click, seen | click, seen | like, like]
    )
    changed = torch.tensor([ALL_BITS, ALL_BITS, ALL_BITS, click, seen, like, like])
    masks, amongs = (click, click), (seen, 0)
    assert shown(actions, changed, amongs).tolist() == [
        [1, 1], [1, 1], [0, 1], [0, 0], [1, 0], [0, 0], [0, 0],
    ]  # fmt: skip
    assert news(actions, changed, masks, amongs).tolist() == [
        [1, 1], [1, 1], [0, 1], [1, 1], [1, 0], [0, 0], [0, 0],
    ]  # fmt: skip


def unit(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(*shape, generator=generator), dim=1)


def test_the_sampled_softmax_is_the_corrected_one_without_accidental_hits() -> None:
    query, positive, negatives = unit(3, 4, seed=0), unit(3, 4, seed=1), unit(5, 4, seed=2)
    positive_log_q, negative_log_q = torch.rand(3), torch.rand(5)
    positive_ids, negative_ids = torch.tensor([7, 8, 9]), torch.tensor([7, 1, 9, 7, 2])
    expected = 0.0
    for row in range(3):
        own = float(query[row] @ positive[row] / 0.2 - positive_log_q[row])
        total = math.exp(own)
        for column in range(5):
            if negative_ids[column] != positive_ids[row]:
                logit = query[row] @ negatives[column] / 0.2 - negative_log_q[column]
                total += math.exp(float(logit))
        expected += math.log(total) - own
    actual = sampled_softmax_loss(
        query, positive, negatives, positive_log_q=positive_log_q, negative_log_q=negative_log_q,
        positive_ids=positive_ids, negative_ids=negative_ids, temperature=0.2,
    )  # fmt: skip
    assert float(actual) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("negative_ids", [[], [7, 7]])
def test_without_a_single_true_negative_there_is_no_loss_and_no_nan(
    negative_ids: list[int],
) -> None:
    query = unit(1, 4, seed=0).requires_grad_()
    loss = sampled_softmax_loss(
        query, unit(1, 4, seed=1), unit(len(negative_ids), 4, seed=2),
        positive_log_q=torch.zeros(1), negative_log_q=torch.zeros(len(negative_ids)),
        positive_ids=torch.tensor([7]), negative_ids=torch.tensor(negative_ids, dtype=torch.int64),
        temperature=0.2,
    )  # fmt: skip
    loss.backward()
    assert loss.item() == 0.0
    assert query.grad is not None
    assert not query.grad.any()
