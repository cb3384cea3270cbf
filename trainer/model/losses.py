"""Labels and losses; every loss is a sum, so that the caller divides by a count over all ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from features.sequence_reader import ALL_BITS


def labels(actions: Tensor, task_masks: tuple[int, ...]) -> Tensor:
    """Label 1 where any bit of the task's mask is set.

    Shapes: actions int64[M] -> float32[M,tasks].

    Example:
        >>> labels(torch.tensor([8, 3]), (8, 2))
        tensor([[1., 0.],
                [0., 1.]])
    """
    masks = torch.tensor(task_masks, dtype=actions.dtype, device=actions.device)
    return ((actions[:, None] & masks) != 0).float()


def shown(actions: Tensor, changed: Tensor, task_amongs: tuple[int, ...]) -> Tensor:
    """1 where a target begins to count for a task.

    It has a bit of `among` (0: any target will do), and is no correction, or one that brings the
    first such bit.

    Shapes: actions, changed int64[M] -> float32[M,tasks].

    Example:
        >>> shown(torch.tensor([1, 2]), torch.tensor([ALL_BITS, ALL_BITS]), (1, 0))
        tensor([[1., 1.],
                [0., 1.]])
    """
    is_new = (changed == ALL_BITS)[:, None]
    before = actions & ~changed
    first = is_new | ~_eligible(before, task_amongs)
    return (_eligible(actions, task_amongs) & first).float()


def news(
    actions: Tensor, changed: Tensor, task_masks: tuple[int, ...], task_amongs: tuple[int, ...]
) -> Tensor:
    """1 where a label is still to be learned.

    Of a target that counts for a task only now (`shown`) that task's label; of a correction besides
    those that its changed bits turned from 0 to 1: the rest was learned when the token was a target.

    Shapes: actions, changed int64[M] -> float32[M,tasks].

    Example:
        >>> clicked_then_liked = torch.tensor([10])
        >>> news(clicked_then_liked, torch.tensor([8]), (8, 2, 10), (0, 0, 0))
        tensor([[1., 0., 0.]])
    """
    turned = labels(actions, task_masks) - labels(actions & ~changed, task_masks)
    turned = turned * _eligible(actions, task_amongs)
    return torch.maximum(turned, shown(actions, changed, task_amongs))


def _eligible(actions: Tensor, task_amongs: tuple[int, ...]) -> Tensor:
    among = torch.tensor(task_amongs, dtype=actions.dtype, device=actions.device)
    return ((actions[:, None] & among) != 0) | (among == 0)


def ranking_loss(logits: Tensor, labels: Tensor, news: Tensor) -> Tensor:
    """The sum of binary cross-entropies over the labels that are news, in nats.

    Shapes: logits, labels, news [M,tasks].
    """
    return functional.binary_cross_entropy_with_logits(logits, labels, weight=news, reduction="sum")


def sampled_softmax_loss(
    query: Tensor,
    positive: Tensor,
    negatives: Tensor,
    *,
    positive_log_q: Tensor,
    negative_log_q: Tensor,
    positive_ids: Tensor,
    negative_ids: Tensor,
    temperature: float,
) -> Tensor:
    """The sum over targets of -log p(positive) among positive and negatives, in nats.

    A logit is cosine / temperature - log q, q being how often the sampler draws that item
    (Yi et al. 2019, section 3). A negative that is the target's own item is left out.

    Shapes: query, positive [M,E] and negatives [R,E], each of norm 1; positive_log_q, positive_ids
    [M]; negative_log_q, negative_ids [R].
    """
    own = (query * positive).sum(1) / temperature - positive_log_q
    others = query @ negatives.t() / temperature - negative_log_q
    others = others.masked_fill(positive_ids[:, None] == negative_ids, -torch.inf)
    loss = torch.logaddexp(own, others.logsumexp(1)) - own if len(negative_ids) else own * 0.0
    return loss.sum()
