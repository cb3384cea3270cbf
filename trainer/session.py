"""A training run's state from its first target on: what is checkpointed, exported and resumed."""

from __future__ import annotations

import copy
import time
from pathlib import Path

import numpy as np
import torch

from features.sequence_reader import decode_columns
from features.sequences import SCHEMA
from ingest.runtime.errors import ConfigError
from trainer import metrics
from trainer.batch import TokenBatch
from trainer.checkpoint import Checkpoint, State, find_newest, read_checkpoint, require_same
from trainer.config import TrainerConfig
from trainer.export import Export, Position, TaskQuality
from trainer.learner import Learner, Scored
from trainer.ne_log import StepLine, task_figures
from trainer.quality import Floats, Ints, ItemRates, Sums, TaskRecord, Window, step_sums
from trainer.ranks import Ranks
from trainer.stream import MessageBatch, owned_partitions
from trainer.table import TableState


class Session:
    """The run as this rank sees it; rank 0 alone keeps the quality records.

    Args:
        starts: the first offset of every partition, for a run that has no checkpoint yet.
    """

    def __init__(
        self, config: TrainerConfig, ranks: Ranks, *, starts: dict[int, int], code_revision: str
    ) -> None:
        self._config = config
        self._ranks = ranks
        self._code_revision = code_revision
        self._partitions = frozenset(starts)
        self.learner = Learner(config, ranks)
        self.step = 0
        self.num_targets = 0
        self.num_corrections = 0
        self.clock_ms = -1
        self.positions = {
            partition: Position(offset=starts[partition])
            for partition in owned_partitions(starts, rank=ranks.rank, world=ranks.world)
        }
        self.records = {
            task: TaskRecord(window=Window(config.window_targets))
            for task in config.model.task_names
        }
        self._rates = ItemRates(config.table_rows if ranks.is_first else 1, len(config.model.tasks))

    def resume(self, directory: Path) -> Path | None:
        """Go on from the newest readable checkpoint below `directory`, if there is any.

        Raises:
            BadCheckpoint: there are checkpoints and none can be read.
            ConfigError: it is of another model, table, schema or set of partitions.
        """
        path = self._ranks.from_first(find_newest(directory) if self._ranks.is_first else None)
        if path is None:
            return None
        checkpoint = read_checkpoint(path)
        state, tensors = checkpoint.state, checkpoint.tensors
        require_same(state, self._config.to_dict(), SCHEMA.decode())
        lost = sorted(state.positions.keys() - self._partitions)
        if lost:
            raise ConfigError(
                "the checkpoint has partitions the topic lacks",
                detail=f"{lost}; the topic has {sorted(self._partitions)}.",
                hint="restore the topic, or give another checkpoint directory",
            )
        self.step, self.num_targets = state.step, state.num_targets
        self.num_corrections = state.num_corrections
        self.clock_ms = state.clock_ms
        # A partition that is new since begins at its first offset.
        self.positions = {p: state.positions.get(p, at) for p, at in self.positions.items()}
        table = tensors["table"]
        self.learner.load(
            dense=tensors["dense"],
            adam=tensors["adam"],
            table=TableState(weight=table["weight"], momentum=table["momentum"]),
            row_ids=table["row_ids"].numpy(),
        )
        self.records = {task: state.quality[task] for task in self.records}
        if self._ranks.is_first:
            rates = tensors["rates"]
            self._rates = ItemRates.from_counts(rates["shown"].numpy(), rates["positives"].numpy())
        return path

    def train(self, batch: MessageBatch | None) -> StepLine:
        """One step of all ranks: score, take down the quality, learn. A rank may have no batch."""
        started_seconds = time.perf_counter()
        tokens = self._tokens(batch)
        scored = self.learner.score(tokens, step=self.step)
        num_targets, num_corrections, figures = self._observe(scored, batch)
        learned = self.learner.learn(scored)
        if not learned:
            num_targets = num_corrections = 0
        self.step += 1
        self.num_targets += num_targets
        self.num_corrections += num_corrections
        if batch is not None:
            self.positions = batch.positions
        self._count(scored, batch, learned=learned)
        metrics.step_seconds.observe(time.perf_counter() - started_seconds)
        return StepLine(
            step=self.step,
            num_targets=num_targets,
            total_targets=self.num_targets,
            num_corrections=num_corrections,
            total_corrections=self.num_corrections,
            clock_ms=self.clock_ms,
            skipped=not learned,
            tasks=figures,
        )

    def _tokens(self, batch: MessageBatch | None) -> TokenBatch:
        if batch is None:
            return TokenBatch.of_items(user_ids=[], item_ids=[], num_targets=[])
        return TokenBatch.from_columns(
            decode_columns(list(batch.values)), max_history=self._config.model.max_history
        )

    def _observe(
        self, scored: Scored, batch: MessageBatch | None
    ) -> tuple[int, int, dict[str, dict[str, float | None]]]:
        clock_ms = self.clock_ms if batch is None else batch.clock_ms
        mine = np.column_stack(
            [
                scored.rows,
                np.full(len(scored.rows), clock_ms),
                scored.batch.is_correction.cpu().numpy(),
                scored.logits.cpu().numpy().astype(np.float64),
                scored.labels.cpu().numpy(),
                scored.news.cpu().numpy(),
            ]
        )
        rows = self._ranks.gather_rows(mine)
        if not len(rows):
            return 0, 0, {}
        self.clock_ms = max(self.clock_ms, int(rows[:, 1].max()))
        corrected = rows[:, 2] > 0
        num_corrections = int(corrected.sum())
        num_targets = len(rows) - num_corrections
        logits, labels, news = np.split(rows[:, 3:], 3, axis=1)
        if not self._ranks.is_first or not bool(np.isfinite(logits).all()):
            return num_targets, num_corrections, {}
        items = rows[:, 0].astype(np.int64)
        figures = self._score(items[~corrected], logits[~corrected], labels[~corrected])
        # After the targets: a batch may hold a token's target and its correction.
        self._rates.correct(items[corrected], (labels * news)[corrected])
        return num_targets, num_corrections, figures

    def _score(
        self, items: Ints, logits: Floats, labels: Floats
    ) -> dict[str, dict[str, float | None]]:
        if not len(items):
            return {}
        sums = step_sums(logits, labels, self._rates.score(items))
        self._rates.update(items, labels)
        figures = {}
        for (task, record), of_step in zip(self.records.items(), sums, strict=True):
            record.add(of_step)
            figures[task] = task_figures(of_step, record)
            _count_quality(task, of_step, record)
        return figures

    def _count(self, scored: Scored, batch: MessageBatch | None, *, learned: bool) -> None:
        metrics.steps.inc()
        metrics.skipped_steps.inc(not learned)
        metrics.tokens.inc(scored.batch.num_tokens)
        metrics.messages.inc(0 if batch is None else len(batch.values))
        metrics.fallback_tokens.inc(scored.num_fallback_tokens)
        metrics.idmap_ids.set(self.learner.idmap.num_ids)
        metrics.idmap_rows.set(self.learner.idmap.num_rows)
        metrics.step.set(self.step)
        metrics.trained_targets.set(self.num_targets)
        metrics.trained_corrections.set(self.num_corrections)
        for partition, at in self.positions.items():
            metrics.position_offset.labels(partition=partition).set(at.offset)
            metrics.clock_seconds.labels(partition=partition).set(at.clock_ms / 1000)

    def checkpoint(self) -> Checkpoint | None:
        """A copy of everything, on rank 0; None on other ranks. Collective."""
        table = self.learner.table.gather()
        positions = self._all_positions()
        if table is None:
            return None
        state = State(
            step=self.step,
            num_targets=self.num_targets,
            num_corrections=self.num_corrections,
            clock_ms=self.clock_ms,
            positions=positions,
            quality=copy.deepcopy(self.records),
            config=self._config.to_dict(),
            schema=SCHEMA.decode(),
            code_revision=self._code_revision,
        )
        rates = {"shown": self._rates.shown.copy(), "positives": self._rates.positives.copy()}
        row_ids = torch.from_numpy(self.learner.idmap.row_ids())
        return Checkpoint(
            state=state,
            tensors={
                "dense": self.learner.dense(),
                "adam": self.learner.adam(),
                "table": {"weight": table.weight, "momentum": table.momentum, "row_ids": row_ids},
                "rates": {name: torch.from_numpy(counts) for name, counts in rates.items()},
            },
        )

    def _all_positions(self) -> dict[int, Position]:
        together: dict[int, Position] = {}
        for positions in self._ranks.gather_objects(self.positions):
            together |= positions
        return dict(sorted(together.items()))


def describe_export(checkpoint: Checkpoint) -> Export:
    """The export contract's description of what a checkpoint holds."""
    state = checkpoint.state
    return Export(
        step=state.step,
        num_targets=state.num_targets,
        positions=state.positions,
        watermark_ms=min(at.clock_ms for at in state.positions.values()),
        quality={task: _task_quality(record) for task, record in state.quality.items()},
        model=state.config["model"],
        config=state.config,
        schema=state.schema,
        code_revision=state.code_revision,
        exported_at_ms=time.time_ns() // 1_000_000,
    )


def _task_quality(record: TaskRecord) -> TaskQuality:
    return TaskQuality(
        ne_lifetime=record.lifetime.ne,
        ne_window=record.window.total().ne,
        num_targets=record.lifetime.num_targets,
        num_positives=record.lifetime.num_positives,
    )


def _count_quality(task: str, sums: Sums, record: TaskRecord) -> None:
    metrics.examples.labels(task=task).inc(sums.num_targets)
    metrics.positives.labels(task=task).inc(sums.num_positives)
    metrics.cross_entropy_nats.labels(task=task).inc(sums.log_loss_sum)
    metrics.baseline_cross_entropy_nats.labels(task=task).inc(sums.baseline_log_loss_sum)
    metrics.predicted.labels(task=task).inc(sums.predicted_sum)
    window = record.window.total()
    for gauge, value in (
        (metrics.ne_lifetime, record.lifetime.ne),
        (metrics.ne_window, window.ne),
        (metrics.baseline_ne_lifetime, record.lifetime.baseline_ne),
        (metrics.calibration, window.calibration),
    ):
        if value is not None:
            gauge.labels(task=task).set(value)
