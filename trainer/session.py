"""A training run's state from its first target on: what is checkpointed, exported and resumed."""

from __future__ import annotations

import copy
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from features.sequence_reader import decode_columns
from features.sequences import SCHEMA
from ingest.runtime.errors import ConfigError
from trainer import metrics
from trainer.batch import TokenBatch
from trainer.checkpoint import Checkpoint, State, find_newest, read_checkpoint, require_same
from trainer.config import TrainerConfig
from trainer.export import Position
from trainer.idmap import IdMap
from trainer.learner import Learner, Scored
from trainer.ne_log import StepLine
from trainer.prequential import Figures, Prequential, ScoredTargets
from trainer.quality import TaskRecord
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
        self.prequential = Prequential(config)

    @property
    def records(self) -> dict[str, TaskRecord]:
        """Every task's quality, rank 0's alone."""
        return self.prequential.records

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
            idmap=tensors["idmap"],
            rates={name: counts.numpy() for name, counts in tensors["rates"].items()},
        )
        if self._ranks.is_first:
            self.prequential.records = {task: state.quality[task] for task in self.records}
            self.prequential.scores.load(
                {name: part.numpy() for name, part in tensors["scores"].items()}
            )
        return path

    def train(self, batch: MessageBatch | None) -> StepLine:
        """One step of all ranks: score, take down the quality, learn. A rank may have no batch."""
        started_seconds = time.perf_counter()
        tokens = self._tokens(batch)
        clock_ms = self.clock_ms if batch is None else batch.clock_ms
        scored = self.learner.score(tokens, step=self.step, clock_ms=clock_ms)
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

    def _observe(self, scored: Scored, batch: MessageBatch | None) -> tuple[int, int, Figures]:
        clock_ms = self.clock_ms if batch is None else batch.clock_ms
        mine, values = _columns(scored, clock_ms)
        rows, values = self._ranks.gather_rows(mine), self._ranks.gather_rows(values)
        if not len(rows):
            return 0, 0, {}
        items, clocks_ms, times_ms, is_correction, users, history_lengths = rows.T
        self.clock_ms = max(self.clock_ms, int(clocks_ms.max()))
        is_target = is_correction == 0
        num_targets = int(is_target.sum())
        logits, labels, news, shown = np.split(values, 4, axis=1)
        figures: Figures = {}
        if self.learner.keeps_rates and bool(np.isfinite(logits).all()):
            rates = self.learner.rates
            if self._ranks.is_first:
                targets = ScoredTargets(
                    users=users[is_target],
                    history_lengths=history_lengths[is_target],
                    is_new_item=~rates.shown[items[is_target]].any(1),
                    logits=logits[is_target],
                    labels=labels[is_target],
                    counted=shown[is_target],
                    baseline=rates.score(items[is_target]),
                )
                figures = self.prequential.observe(targets, num_before=self.num_targets)
            rates.update(items, times_ms, shown=shown, positives=labels * news)
        return num_targets, len(rows) - num_targets, figures

    def _count(self, scored: Scored, batch: MessageBatch | None, *, learned: bool) -> None:
        metrics.steps.inc()
        metrics.skipped_steps.inc(not learned)
        metrics.tokens.inc(scored.batch.num_tokens)
        metrics.messages.inc(0 if batch is None else len(batch.values))
        _count_rows(scored, self.learner.idmap)
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
        rates, scores = self.learner.rates.state(), self.prequential.scores.state()
        return Checkpoint(
            state=state,
            tensors={
                "dense": self.learner.dense(),
                "adam": self.learner.adam(),
                "idmap": self.learner.row_state(),
                "table": {"weight": table.weight, "momentum": table.momentum},
                "rates": {name: torch.from_numpy(counts) for name, counts in rates.items()},
                "scores": {name: torch.from_numpy(part) for name, part in scores.items()},
            },
        )

    def _all_positions(self) -> dict[int, Position]:
        together: dict[int, Position] = {}
        for positions in self._ranks.gather_objects(self.positions):
            together |= positions
        return dict(sorted(together.items()))


def _columns(
    scored: Scored, clock_ms: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """What rank 0 has to know of each of M targets.

    Shapes: row, clock, time, whether a correction, user and history length int64[M,6]; logits,
    labels, news and shown float64[M,4 tasks].
    """
    batch = scored.batch
    history_lengths = batch.lengths - batch.num_targets
    of_targets = (
        batch.times_ms[batch.target_index],
        batch.is_correction,
        batch.user_ids[batch.target_user],
        history_lengths[batch.target_user],
    )
    whole = [scored.rows, np.full(len(scored.rows), clock_ms)]
    whole += [values.cpu().numpy().astype(np.int64) for values in of_targets]
    parts = (scored.logits, scored.labels, scored.news, scored.shown)
    values = [part.cpu().numpy().astype(np.float64) for part in parts]
    return np.column_stack(whole), np.concatenate(values, axis=1)


def _count_rows(scored: Scored, idmap: IdMap) -> None:
    metrics.fallback_tokens.inc(scored.num_fallback_tokens)
    if scored.batch.num_tokens:
        metrics.fallback_ratio.set(scored.num_fallback_tokens / scored.batch.num_tokens)
    metrics.admitted_ids.inc(scored.observed.num_admitted)
    metrics.evicted_ids.labels(reason="idle").inc(scored.observed.num_idle)
    metrics.evicted_ids.labels(reason="full").inc(scored.observed.num_coldest)
    metrics.idmap_ids.set(idmap.num_ids)
    metrics.idmap_rows.set(idmap.num_rows)
