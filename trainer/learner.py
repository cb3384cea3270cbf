"""One step on one global batch: score it, then learn it.

Nothing is changed before all of a step is known to be finite: the model's backward ends at the
looked-up rows, and only then do the dense weights and the table move.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer import metrics
from trainer.activations import ActivationMeter
from trainer.batch import TokenBatch
from trainer.config import TrainerConfig
from trainer.idmap import FALLBACK_ROW, IdMap, Ints
from trainer.model.losses import labels as task_labels
from trainer.model.losses import news, ranking_loss, sampled_softmax_loss, shown
from trainer.model.recommender import ModelOutput, Recommender
from trainer.negatives import draw_negatives
from trainer.ranks import Ranks
from trainer.rates import ItemRates
from trainer.row_allocator import Observed, RowAllocator
from trainer.table import ItemTable, TableState


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A batch's forward, made with weights that have not seen it.

    Shapes: `rows` int64[M], `labels`, `news`, `shown` float32[M,tasks], of this rank's M targets;
    `found` is the lookup of distinct rows then negatives, `leaf` the same values where the model's
    graph ends.
    """

    batch: TokenBatch
    output: ModelOutput | None
    rows: Ints
    labels: Tensor
    news: Tensor
    shown: Tensor
    found: Tensor
    leaf: Tensor
    inverse: Tensor
    negative_rows: Tensor
    num_fallback_tokens: int
    observed: Observed

    @property
    def logits(self) -> Tensor:
        """Task logits [M,tasks], before learning."""
        if self.output is None:
            return torch.zeros_like(self.labels)
        return self.output.task_logits.detach()


class Learner:
    """The model, the table, the id map and their optimizers; calls are collective over the ranks."""

    def __init__(self, config: TrainerConfig, ranks: Ranks) -> None:
        self._config = config
        self._ranks = ranks
        torch.manual_seed(config.seed)
        self.model = Recommender(
            config.model, config.attention_backend, rematerialize=config.rematerialize
        ).to(ranks.device)
        self._looked_on = False
        self._adam = torch.optim.Adam(self.model.parameters(), lr=config.dense_learning_rate)
        self._rows = RowAllocator(
            config.table_rows,
            admit_after=config.admit_after,
            idle_ttl_ms=config.idle_ttl_ms,
            seed=config.seed,
        )
        self.table = ItemTable(
            num_rows=config.table_rows,
            embedding_dim=config.model.embedding_dim,
            learning_rate=config.table_learning_rate,
            init_std=config.table_init_std,
            seed=config.seed,
            ranks=ranks,
        )
        # Rank 0 keeps them as the baseline, every rank where the model reads them.
        self.keeps_rates = ranks.is_first or config.model.counted_rates
        self.rates = ItemRates(
            config.table_rows if self.keeps_rates else 1,
            len(config.model.tasks),
            half_life_seconds=config.rate_half_life_seconds,
        )

    @property
    def idmap(self) -> IdMap:
        """Which id has which row."""
        return self._rows.idmap

    def score(self, batch: TokenBatch, *, step: int, clock_ms: int) -> Scored:
        """Give and take rows by the ids of all ranks' batches, then score this one's targets."""
        ids, inverse, counts = np.unique(
            batch.item_ids.numpy(), return_inverse=True, return_counts=True
        )
        observed = self._observe(ids, counts, step=step, clock_ms=clock_ms)
        rows = self.idmap.rows_of(ids)
        negatives = draw_negatives(
            self.idmap, self._config.num_negatives, seed=self._config.seed, step=step
        )
        self._rows.mark_changed(negatives, step=step)
        found = self.table.lookup(self._tensor(np.concatenate([rows, negatives])))
        leaf = found.detach().requires_grad_()
        token_rows = rows[inverse]
        targets = batch.target_index
        actions, model = batch.actions[targets], self._config.model
        scored = Scored(
            batch=_on_device(batch, self._ranks.device),
            output=None,
            rows=token_rows[targets.numpy()],
            labels=self._to_device(task_labels(actions, model.task_masks)),
            news=self._to_device(news(actions, batch.changed, model.task_masks, model.task_amongs)),
            shown=self._to_device(shown(actions, batch.changed, model.task_amongs)),
            found=found,
            leaf=leaf,
            inverse=self._tensor(inverse),
            negative_rows=self._tensor(negatives),
            num_fallback_tokens=int((token_rows == FALLBACK_ROW).sum()),
            observed=observed,
        )
        if not len(targets):
            return scored
        item_rows = self._with_counted(rows, leaf[: len(rows)]).index_select(0, scored.inverse)
        return replace(scored, output=self._forward(scored.batch, item_rows))

    def _observe(self, ids: Ints, counts: Ints, *, step: int, clock_ms: int) -> Observed:
        if self._ranks.world > 1:
            mine = np.column_stack([ids, counts, np.full(len(ids), clock_ms)])
            everyones = self._ranks.gather_rows(mine)
            ids, inverse = np.unique(everyones[:, 0], return_inverse=True)
            counts = np.zeros(len(ids), np.int64)
            np.add.at(counts, inverse, everyones[:, 1])
            clock_ms = int(everyones[:, 2].max(initial=-1))
        observed = self._rows.observe(ids, counts, clock_ms=clock_ms, step=step)
        self.table.reset(observed.evicted_rows)
        if self.keeps_rates:
            self.rates.forget(observed.evicted_rows)
        return observed

    def _with_counted(self, rows: Ints, embeddings: Tensor) -> Tensor:
        """The rows as the model reads them: [n,E] -> [n,W]."""
        if not self._config.model.counted_rates:
            return embeddings
        counted = torch.from_numpy(self.rates.figures(rows))
        return torch.cat([embeddings, self._to_device(counted)], dim=1)

    def _forward(self, batch: TokenBatch, item_rows: Tensor) -> ModelOutput:
        """The model's answer; the first time also what it costs in memory."""
        # Looking on takes time, so it is done once.
        looked_on, self._looked_on = self._looked_on, True
        if looked_on:
            return self.model(batch, item_rows)
        with ActivationMeter() as meter:
            output: ModelOutput = self.model(batch, item_rows)
        metrics.activation_bytes_per_token.set(meter.num_bytes / batch.num_tokens)
        return output

    def learn(self, scored: Scored) -> bool:
        """Move the weights by the scored batch; False where something was not finite: no move."""
        batch, bits = scored.batch, (self._config.positive_bits,)
        actions = batch.actions[batch.target_index]
        positive = (task_labels(actions, bits) * news(actions, batch.changed, bits, (0,)))[:, 0] > 0
        num_news, num_positives, *of_tasks = self._ranks.sum(
            [
                float(scored.news.sum()),
                int(positive.sum()),
                *scored.shown.sum(0).tolist(),
                *(scored.labels * scored.news).sum(0).tolist(),
            ]
        )
        if not num_news:
            return True
        self._adam.zero_grad()
        if scored.output is not None:
            loss = ranking_loss(scored.output.task_logits, scored.labels, scored.news) / num_news
            if num_positives and self._config.retrieval_weight:
                retrieval = self._retrieval_loss(scored, scored.output, positive)
                loss = loss + retrieval * (self._config.retrieval_weight / num_positives)
            # Table and dense gradients are averages over the ranks, the loss a sum over all.
            (loss * self._ranks.world).backward()
        learned = self._apply(scored)
        if learned:
            num_tasks = len(self._config.model.tasks)
            self.model.ranking.count(of_tasks[:num_tasks], of_tasks[num_tasks:])
        return learned

    def _retrieval_loss(self, scored: Scored, output: ModelOutput, positive: Tensor) -> Tensor:
        num_distinct = len(scored.found) - len(scored.negative_rows)
        items = self.model.item_vectors(
            torch.cat(
                [
                    scored.leaf.index_select(
                        0, scored.inverse[scored.batch.target_index[positive]]
                    ),
                    scored.leaf[num_distinct:],
                ]
            )
        )
        num_positives = int(positive.sum())
        rows = self._tensor(scored.rows)[positive]
        # Negatives are drawn uniformly: log q is the same for all and cancels.
        return sampled_softmax_loss(
            output.query[positive],
            items[:num_positives],
            items[num_positives:],
            positive_log_q=items.new_zeros(num_positives),
            negative_log_q=items.new_zeros(len(scored.negative_rows)),
            positive_ids=rows,
            negative_ids=scored.negative_rows,
            temperature=self._config.model.retrieval_temperature,
        )

    def _apply(self, scored: Scored) -> bool:
        parameters = list(self.model.parameters())
        leaf_gradient = scored.leaf.grad
        if leaf_gradient is None:
            leaf_gradient = torch.zeros_like(scored.leaf)
        pieces = [
            (torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters
        ]
        # One sum carries the dense gradients and whether any rank's table gradient is not finite.
        flat = torch.cat([*pieces, leaf_gradient.sum().reshape(1)])
        self._ranks.sum_in_place(flat)
        if not bool(torch.isfinite(flat).all()):
            return False
        flat /= self._ranks.world
        at = 0
        for parameter in parameters:
            parameter.grad = flat[at : at + parameter.numel()].view_as(parameter)
            at += parameter.numel()
        self._adam.step()
        scored.found.backward(leaf_gradient)
        return True

    def dense(self) -> dict[str, Tensor]:
        """A copy of the model's weights, on the CPU."""
        return {name: w.detach().cpu().clone() for name, w in self.model.state_dict().items()}

    def adam(self) -> dict[str, Tensor]:
        """A copy of Adam's state, as `<field>.<parameter>`; empty before the first step."""
        return {
            f"{field}.{name}": value.detach().cpu().clone()
            for name, parameter in self.model.named_parameters()
            for field, value in self._adam.state.get(parameter, {}).items()
        }

    def row_state(self) -> dict[str, Tensor]:
        """A copy of the id map and of what decides who has a row."""
        return {name: torch.from_numpy(values) for name, values in self._rows.state().items()}

    def load(
        self,
        *,
        dense: dict[str, Tensor],
        adam: dict[str, Tensor],
        table: TableState,
        idmap: dict[str, Tensor],
        rates: dict[str, npt.NDArray[np.generic]],
    ) -> None:
        """Go on from what `dense`, `adam`, `table.gather`, `row_state` and `rates.state` gave."""
        self.model.load_state_dict(dense)
        for name, parameter in self.model.named_parameters():
            saved = {
                field: adam[f"{field}.{name}"].to(
                    parameter.device if field != "step" else torch.device("cpu")
                )
                for field in ("step", "exp_avg", "exp_avg_sq")
                if f"{field}.{name}" in adam
            }
            if saved:
                self._adam.state[parameter] = saved
        self.table.load(table)
        self._rows.load({name: values.numpy() for name, values in idmap.items()})
        if self.keeps_rates:
            half_life_seconds = self._config.rate_half_life_seconds
            self.rates = ItemRates.from_state(rates, half_life_seconds=half_life_seconds)

    def _tensor(self, values: Ints) -> Tensor:
        return self._to_device(torch.from_numpy(values))

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._ranks.device)


def _on_device(batch: TokenBatch, device: torch.device) -> TokenBatch:
    if device.type == "cpu":
        return batch
    moved = {field.name: getattr(batch, field.name).to(device) for field in fields(batch)}
    return replace(batch, **moved)
