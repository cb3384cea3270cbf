"""Rematerialisation: fewer bytes kept between forward and backward, and not a bit changed."""

from __future__ import annotations

import pytest
import torch
from prometheus_client import REGISTRY
from torch import Tensor

from features.sequence_reader import ALL_BITS
from kernels.jagged import offsets_of, positions_of
from trainer.activations import ActivationMeter
from trainer.batch import TokenBatch
from trainer.config import TrainerConfig
from trainer.learner import Learner
from trainer.model.config import ModelConfig
from trainer.model.recommender import Recommender
from trainer.ranks import Ranks

WIDTH, LAYERS, HEADS, HEAD_WIDTH = 16, 3, 2, 8
CONFIG = ModelConfig(
    tasks=(("click", 2),), embedding_dim=WIDTH, num_layers=LAYERS, num_heads=HEADS,
    qk_dim=HEAD_WIDTH, value_dim=HEAD_WIDTH,
)  # fmt: skip


def make_batch() -> TokenBatch:
    lengths = torch.tensor([40, 7, 0, 90])
    total = int(lengths.sum())
    return TokenBatch(
        user_ids=torch.arange(4),
        offsets=offsets_of(lengths),
        num_targets=torch.tensor([3, 1, 0, 5]),
        item_ids=torch.arange(total),
        times_ms=positions_of(lengths) * 60_000,
        actions=torch.arange(total) % 8,
        watch_ms=torch.arange(total) * 1000,
        price_minor=torch.arange(total),
        changed=torch.full((9,), ALL_BITS),
    )


def forward_and_backward(*, rematerialize: bool, backend: str) -> tuple[int, list[Tensor]]:
    """Bytes left behind by the forward, and all results."""
    torch.manual_seed(0)
    model = Recommender(CONFIG, backend, rematerialize=rematerialize)
    batch = make_batch()
    items = torch.randn(batch.num_tokens, WIDTH).requires_grad_()
    with ActivationMeter() as meter:
        output = model(batch, items)
    kept = meter.num_bytes
    loss = output.task_logits.square().sum() + output.query.sin().sum()
    loss.backward()
    gradients = [each.grad for each in (items, *model.parameters()) if each.grad is not None]
    return kept, [output.task_logits.detach(), output.query.detach(), *gradients]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_not_a_bit_of_answers_and_gradients_changes(backend: str) -> None:
    _, plain = forward_and_backward(rematerialize=False, backend=backend)
    _, again = forward_and_backward(rematerialize=True, backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_what_is_computed_anew_is_not_kept() -> None:
    kept, _ = forward_and_backward(rematerialize=False, backend="cpu")
    kept_less, _ = forward_and_backward(rematerialize=True, backend="cpu")
    tokens, inner = make_batch().num_tokens, HEADS * HEAD_WIDTH
    # The normalised input, U, V, Q, K before and behind silu, and the gated output.
    numbers = WIDTH + 2 * (4 * inner) + inner
    # What attention gave stays: to lack it too would be to compute it twice.
    saved = (kept - kept_less) / (LAYERS * tokens * 4)
    assert numbers <= saved < numbers + inner


def test_the_meter_agrees_with_what_autograd_saves() -> None:
    x, weight = torch.randn(50, 8, requires_grad=True), torch.randn(8, 8, requires_grad=True)
    own = {each.untyped_storage().data_ptr() for each in (x, weight)}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        ActivationMeter() as meter,
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        y = (x @ weight).sigmoid().exp().view(-1)
    assert meter.num_bytes == sum(size for at, size in saved.items() if at not in own)
    assert len(y) == 400


def test_what_nobody_keeps_does_not_count() -> None:
    x = torch.randn(50, requires_grad=True)
    with ActivationMeter() as meter:
        y = x.sigmoid().exp()
    assert meter.num_bytes == 2 * 50 * 4
    del y
    assert meter.num_bytes == 0


def test_nothing_is_kept_without_a_backward() -> None:
    model, batch = Recommender(CONFIG, "cpu", rematerialize=True), make_batch()
    with torch.inference_mode(), ActivationMeter() as meter:
        output = model(batch, torch.zeros(batch.num_tokens, WIDTH))
    assert meter.num_bytes <= 4 * (output.task_logits.numel() + output.query.numel()) + 4096


def test_the_first_step_reports_its_bytes(alone: Ranks) -> None:
    reported = []
    for rematerialize in (False, True):
        config = TrainerConfig(model=CONFIG, table_rows=256, rematerialize=rematerialize)
        Learner(config, alone).score(make_batch(), step=0, clock_ms=0)
        reported.append(REGISTRY.get_sample_value("freshet_trainer_activation_bytes_per_token"))
    assert reported[0] > 2 * reported[1] > 0
