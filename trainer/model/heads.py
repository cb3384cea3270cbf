"""From states to answers: task logits for ranking, unit vectors for retrieval."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.model.config import ModelConfig

_COUNTED_HIDDEN = 32


class RankingHead(nn.Module):
    """MLP(state * tower(item)) and, beside it, one line each for the item and for the user.

    The two lines carry item and user bias, which a single pass has to learn fast. What needs no
    learning at all is counted: logits start from each task's log-odds among the targets learned so
    far, (positives + 1) to (negatives + 1). What was counted of the item itself (`trainer.rates`)
    has a line and a small MLP of its own: beside E learned inputs it would be learned too slowly.
    """

    num_targets: Tensor
    num_positives: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, num_tasks = config.embedding_dim, len(config.tasks)
        self.tower = nn.Linear(width, width)
        self.hidden = nn.Linear(3 * width, config.hidden_dim)
        self.hidden_norm = nn.LayerNorm(config.hidden_dim)
        self.tasks = nn.Linear(config.hidden_dim, num_tasks)
        self.item_line = nn.Linear(width, num_tasks, bias=False)
        self.user_line = nn.Linear(width, num_tasks, bias=False)
        self.counted: CountedRates | None = None
        if config.counted_rates:
            self.counted = CountedRates(config.num_counted, num_tasks)
        self.register_buffer("num_targets", torch.zeros(num_tasks, dtype=torch.float64))
        self.register_buffer("num_positives", torch.zeros(num_tasks, dtype=torch.float64))

    def count(self, num_targets: list[float], num_positives: list[float]) -> None:
        """Take learned targets into the base rates, one number a task.

        A correction brings a positive and no target: the target was counted as a negative before.
        """
        self.num_targets += self.num_targets.new_tensor(num_targets)
        self.num_positives += self.num_positives.new_tensor(num_positives)
        # A run may begin behind a target and before its correction.
        torch.minimum(self.num_positives, self.num_targets, out=self.num_positives)

    def forward(
        self, state: Tensor, item_embeddings: Tensor, user_state: Tensor, counted: Tensor
    ) -> Tensor:
        """Score targets.

        Shapes: target states, their items' embeddings, their users' states, each [M,E], and what
        was counted of the items [M,`config.num_counted`] -> [M,tasks].
        """
        tower = self.tower(item_embeddings)
        joined = torch.cat([state * tower, state, user_state * tower], dim=1)
        hidden = functional.silu(self.hidden_norm(self.hidden(joined)))
        logits: Tensor = self.tasks(hidden) + self._base_log_odds(hidden.dtype)
        logits = logits + self.item_line(item_embeddings) + self.user_line(user_state)
        return logits if self.counted is None else logits + self.counted(counted)

    def _base_log_odds(self, dtype: torch.dtype) -> Tensor:
        positives, negatives = self.num_positives, self.num_targets - self.num_positives
        return torch.log((positives + 1) / (negatives + 1)).to(dtype)


class CountedRates(nn.Module):
    """A line and a small MLP over counted figures; it starts at 0."""

    def __init__(self, num_counted: int, num_tasks: int) -> None:
        super().__init__()
        self.line = nn.Linear(num_counted, num_tasks, bias=False)
        self.hidden = nn.Linear(num_counted, _COUNTED_HIDDEN)
        self.tasks = nn.Linear(_COUNTED_HIDDEN, num_tasks, bias=False)
        nn.init.zeros_(self.line.weight)
        nn.init.zeros_(self.tasks.weight)

    def forward(self, counted: Tensor) -> Tensor:
        """Shapes: [M,counted] -> [M,tasks]."""
        logits: Tensor = self.line(counted) + self.tasks(functional.silu(self.hidden(counted)))
        return logits


class RetrievalHead(nn.Module):
    """Users and items in one space, where the cosine ranks."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.user = nn.Linear(config.embedding_dim, config.embedding_dim)
        self.item = nn.Linear(config.embedding_dim, config.embedding_dim)

    def query(self, user_state: Tensor) -> Tensor:
        """Shapes: [B,E] -> [B,E], norm 1."""
        return functional.normalize(self.user(user_state), dim=1)

    def item_vectors(self, item_embeddings: Tensor) -> Tensor:
        """Shapes: [R,E] -> [R,E], norm 1."""
        return functional.normalize(self.item(item_embeddings), dim=1)
