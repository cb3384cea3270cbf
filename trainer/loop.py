"""The loop: poll, batch, score, log, learn, and now and then a checkpoint or an export."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import structlog
import torch

from ingest.runtime.lock import lock_directory
from ingest.runtime.service import StopSignal
from trainer import metrics
from trainer.checkpoint import Checkpoint, drop_newer, write_checkpoint
from trainer.config import RunConfig, TrainerConfig
from trainer.export import (
    Position,
    drop_exports,
    drop_left_overs,
    list_exports,
    write_export,
)
from trainer.hand_over import describe_export, export_table
from trainer.ne_log import NeLog, StepLine
from trainer.ranks import Ranks
from trainer.session import Session
from trainer.source import Graveyard, Reader, Source
from trainer.stream import MessageBatch
from trainer.writer import Writer

_IDLE_POLL_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What all ranks agreed to do next."""

    train: bool
    export: bool
    finish: bool


def train(
    config: TrainerConfig,
    run: RunConfig,
    *,
    ranks: Ranks,
    starts: dict[int, int],
    open_reader: Callable[[dict[int, Position]], Reader],
    graveyard: Graveyard,
    stop: StopSignal,
) -> Session:
    """Train until asked to stop or until the stop clock, resuming where the last run left off.

    Args:
        config: what decides the weights.
        run: where and when to write.
        ranks: the ranks training together.
        starts: every partition and its first offset.
        open_reader: gives a reader of this rank's partitions at these positions.
        graveyard: takes each record that is no message.
        stop: looked at between two steps.

    Raises:
        ConfigError: another trainer holds the checkpoint directory.
    """
    _fix_arithmetic(config, run)
    hint = "stop the other trainer, or give this one other directories"
    with lock_directory(run.checkpoint_dir, hint=hint) if ranks.is_first else nullcontext():
        session = Session(config, ranks, starts=starts, code_revision=run.code_revision)
        outputs = Outputs(session, run, ranks, graveyard)
        try:
            _train(session, outputs, config, run, ranks, open_reader, graveyard, stop)
        finally:
            outputs.close()
        return session


def _train(
    session: Session,
    outputs: Outputs,
    config: TrainerConfig,
    run: RunConfig,
    ranks: Ranks,
    open_reader: Callable[[dict[int, Position]], Reader],
    graveyard: Graveyard,
    stop: StopSignal,
) -> None:
    outputs.resume()
    source = _open_source(config, run, session, open_reader, graveyard)
    batch: MessageBatch | None = None
    turn = Turn(train=False, export=False, finish=False)
    while not turn.finish:
        now_seconds = time.monotonic()
        source.poll(0.0 if turn.train else _IDLE_POLL_SECONDS, now_seconds=now_seconds)
        batch = batch or source.next_batch(now_seconds=now_seconds)
        turn = _agree(run, ranks, source, batch, outputs, stop)
        if turn.train:
            outputs.log(session.train(batch))
            batch = None
            outputs.checkpoint_if_due()
        if turn.export:
            outputs.write(export=True)
    if source.ended and batch is None:
        session.positions = source.positions()
    outputs.finish()


def _open_source(
    config: TrainerConfig,
    run: RunConfig,
    session: Session,
    open_reader: Callable[[dict[int, Position]], Reader],
    graveyard: Graveyard,
) -> Source:
    return Source(
        open_reader(session.positions),
        session.positions,
        graveyard=graveyard,
        max_history=config.model.max_history,
        token_budget=config.token_budget,
        max_buffered_tokens=config.max_buffered_tokens,
        max_wait_seconds=run.wait_limit_seconds,
        stop_at_clock_ms=run.stop_at_clock_ms,
    )


def _agree(
    run: RunConfig,
    ranks: Ranks,
    source: Source,
    batch: MessageBatch | None,
    outputs: Outputs,
    stop: StopSignal,
) -> Turn:
    """One small sum over the ranks decides, so that no rank waits for one that does not come."""
    mine = [batch is not None, batch is None and source.ended, stop.requested(), outputs.export_due]
    num_ready, num_ended, num_stops, num_exports = ranks.sum([float(value) for value in mine])
    complete = not run.deterministic or num_ready + num_ended == ranks.world
    return Turn(
        train=bool(num_ready) and complete and not num_stops,
        export=bool(num_exports) and not num_stops,
        finish=bool(num_stops) or num_ended == ranks.world,
    )


class Outputs:
    """What a run writes: the NE log at once, checkpoints and exports beside training."""

    def __init__(
        self, session: Session, run: RunConfig, ranks: Ranks, graveyard: Graveyard
    ) -> None:
        self._session = session
        self._run = run
        self._ranks = ranks
        self._graveyard = graveyard
        self._writer = Writer()
        self._log = structlog.get_logger()
        self._ne_log: NeLog | None = None
        self._checkpoint_step = 0
        self._export_step = 0
        self._exported_at_seconds = time.monotonic()

    def resume(self) -> None:
        """Load the newest checkpoint and take back what was written after it."""
        path = self._session.resume(self._run.checkpoint_dir)
        step = self._checkpoint_step = self._session.step
        newest = self._take_back(step) if self._ranks.is_first else 0
        self._export_step = self._ranks.from_first(newest)
        if not self._ranks.is_first:
            return
        self._ne_log = NeLog(self._run.ne_log, step=step)
        self._log.info("training_starts", step=step, checkpoint=str(path) if path else None)

    def _take_back(self, step: int) -> int:
        """Remove what is newer than `step`; the newest hand-over left, 0 for none.

        An export is newer only where its checkpoint was damaged since: its step comes again, in a
        live run perhaps with other weights.
        """
        drop_newer(self._run.checkpoint_dir, step=step)
        drop_left_overs(self._run.export_dir)
        newest = 0
        for export in list_exports(self._run.export_dir):
            if int(export.name) > step:
                self._log.warning(
                    "export_taken_back", export_step=int(export.name), checkpoint_step=step
                )
                shutil.rmtree(export)
            else:
                newest = int(export.name)
        return newest

    def log(self, line: StepLine) -> None:
        """Append a step's line to the NE log."""
        if self._ne_log is not None:
            self._ne_log.append(line)

    @property
    def export_due(self) -> bool:
        """Whether rank 0 wants an export now."""
        waited = time.monotonic() - self._exported_at_seconds
        return (
            self._ranks.is_first
            and self._session.step > self._export_step
            and waited >= self._run.export_every_seconds
            and not self._writer.busy
        )

    def checkpoint_if_due(self) -> None:
        """Write a checkpoint where the step is a multiple of the cadence. Collective."""
        if self._session.step % self._run.checkpoint_every_steps == 0:
            self.write(export=False)

    def write(self, *, export: bool) -> None:
        """Make the state durable and, if told to, hand it to the publisher. Collective.

        A hand-over is always of a checkpoint already on disk: no crash goes back behind a published
        version. Only the loss of that checkpoint can, and a start after it says so.
        """
        with metrics.stall_seconds.labels(write="export" if export else "checkpoint").time():
            # The checkpoint is past what was buried and what was logged: neither comes again.
            self._graveyard.flush()
            if self._ne_log is not None:
                self._ne_log.sync()
            checkpoint = self._session.checkpoint()
            self._checkpoint_step = self._session.step
            if export:
                self._export_step = self._session.step
                self._exported_at_seconds = time.monotonic()
            if checkpoint is None:
                return

            def write() -> None:
                self._write_checkpoint(checkpoint)
                if export:
                    self._write_export(checkpoint)

            self._writer.submit(write)

    def _write_checkpoint(self, checkpoint: Checkpoint) -> None:
        with metrics.checkpoint_seconds.time():
            write_checkpoint(self._run.checkpoint_dir, checkpoint, keep=self._run.checkpoint_keep)
        metrics.checkpoint_timestamp.set_to_current_time()

    def _write_export(self, checkpoint: Checkpoint) -> None:
        with metrics.export_seconds.time():
            write_export(
                self._run.export_dir,
                describe_export(checkpoint),
                dense=checkpoint.tensors["dense"],
                table=export_table(checkpoint),
            )
            drop_exports(self._run.export_dir, keep=self._run.export_keep)
        metrics.export_timestamp.set_to_current_time()

    def finish(self) -> None:
        """A last checkpoint and hand-over of what has none yet, all on disk. Collective."""
        export = self._session.step > self._export_step
        if export or self._session.step > self._checkpoint_step:
            self.write(export=export)
        self._writer.wait()
        self._log.info(
            "training_stops",
            step=self._session.step,
            num_targets=self._session.num_targets,
            quality={
                task: {"ne": r.lifetime.ne, "baseline_ne": r.lifetime.baseline_ne}
                for task, r in self._session.records.items()
            },
        )

    def close(self) -> None:
        """Return when nothing is written any more, after an error too: the lock must cover it."""
        try:
            self._writer.close()
        finally:
            if self._ne_log is not None:
                self._ne_log.close()


def _fix_arithmetic(config: TrainerConfig, run: RunConfig) -> None:
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(run.deterministic)
