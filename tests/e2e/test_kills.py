"""The whole loop with real parts, killed in the middle, against the same loop left alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from deploy.conservation import Audit
from deploy.processes import await_condition
from deploy.sequence_log import SequenceLog
from deploy.stack import LocalStack, StackConfig
from features.config import FeaturesConfig
from ingest.adapters.synthetic import SyntheticConfig, SyntheticTruth, generate
from ingest.producer import EventProducer
from ingest.replay import ReplayConfig, replay
from ingest.runtime.kafka import read_all
from ingest.runtime.topics import EVENTS, EVENTS_DEAD, EVENTS_LATE
from trainer.checkpoint import Checkpoint, find_newest, read_checkpoint
from trainer.ne_log import StepLine, read_ne_log

FEATURES = FeaturesConfig()
FLUSH_AFTER_MS = FEATURES.emit_after_ms + FEATURES.join_window_ms + FEATURES.bound_ms
LOG, TRUTH = generate(
    SyntheticConfig(num_impressions=2_000, num_users=60, malformed=0.03, duplicates=0.03, late=0.02)
)
STOP_AT_MS = max(t for rows in LOG.read(0, len(LOG)) for t in rows.times_ms) + FLUSH_AFTER_MS + 1
CHECKPOINT_EVERY_STEPS = 4
SETTINGS = {
    "FRESHET_TRAINER_TASKS": "click",
    "FRESHET_TRAINER_DETERMINISTIC": "true",
    "FRESHET_TRAINER_STOP_AT_CLOCK_MS": str(STOP_AT_MS),
    "FRESHET_TRAINER_TOKEN_BUDGET": "1024",
    "FRESHET_TRAINER_TABLE_ROWS": "2048",
    "FRESHET_TRAINER_CHECKPOINT_EVERY_STEPS": str(CHECKPOINT_EVERY_STEPS),
    "FRESHET_TRAINER_EXPORT_EVERY_SECONDS": "3600",  # each one would be a checkpoint too
}


@dataclass(frozen=True)
class Outcome:
    """What a run of the loop left behind."""

    steps: list[StepLine]
    checkpoint: Checkpoint
    audit: Audit


def run_loop(directory: Path, *, kill: bool) -> Outcome:
    """Send the log through broker, job and trainer; kill both in the middle if told to."""
    with LocalStack(StackConfig(directory=directory, settings=SETTINGS)) as stack:
        stack.start_broker()
        services = [stack.features(), stack.trainer()]
        for service in services:
            stack.start(service)
        half = len(LOG) // 2
        send(stack, 0, half)
        if kill:
            trainer = stack.child("trainer")
            await_condition(lambda: between_checkpoints(stack), trainer, timeout_seconds=200)
            for service in reversed(services):
                stack.child(service.name).kill()
            newest = find_newest(stack.checkpoints)
            assert newest is not None
            assert int(newest.name) < len(steps_of(stack)), "nothing was lost"
            for service in services:
                stack.start(service)
        send(stack, half, len(LOG))
        assert stack.child("trainer").wait(timeout_seconds=200) == 0
        steps = steps_of(stack)
        newest = find_newest(stack.checkpoints)
        assert newest is not None
        return Outcome(steps, read_checkpoint(newest), audit_of(stack, steps))


def send(stack: LocalStack, start: int, stop: int) -> None:
    """Replay rows start..stop; behind the last one the clocks move on."""
    config = ReplayConfig(
        state_directory=stack.directory / "replay",
        skip=start,
        limit=stop - start,
        flush_after_ms=FLUSH_AFTER_MS if stop == len(LOG) else None,
    )
    with EventProducer(stack.bootstrap) as producer:
        replay(LOG, producer, config)


def between_checkpoints(stack: LocalStack) -> bool:
    """Whether a kill now loses steps, none of them being the next checkpoint's."""
    done = len(steps_of(stack))
    return done > CHECKPOINT_EVERY_STEPS and done % CHECKPOINT_EVERY_STEPS >= 2


def steps_of(stack: LocalStack) -> list[StepLine]:
    """The steps logged so far."""
    return read_ne_log(stack.ne_log) if stack.ne_log.exists() else []


def audit_of(stack: LocalStack, steps: list[StepLine]) -> Audit:
    """Everything the topics hold after the run."""
    log = SequenceLog(stack.bootstrap)
    try:
        account = log.follow_to_end()
    finally:
        log.close()
    return Audit(
        counters=account.counters(),
        events_sent=len(LOG),
        events_in_topic=len(read_all(stack.bootstrap, EVENTS)),
        targets_in_topic=account.num_targets(),
        distinct_targets=account.num_distinct_targets(),
        corrections_in_topic=account.num_corrections(),
        distinct_corrections=account.num_distinct_corrections(),
        targets_trained=sum(line.num_targets for line in steps),
        corrections_trained=sum(line.num_corrections for line in steps),
        late_in_topic=len(read_all(stack.bootstrap, EVENTS_LATE)),
        dead_in_topic=len(read_all(stack.bootstrap, EVENTS_DEAD)),
        dead_at_door=0,
    )


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Outcome]:
    """The run left alone and the run that was killed."""
    directory = tmp_path_factory.mktemp("loop")
    return run_loop(directory / "alone", kill=False), run_loop(directory / "killed", kill=True)


def require_planted(audit: Audit, truth: SyntheticTruth) -> None:
    counters = audit.counters
    assert counters.events == truth.num_records
    assert counters.targets == truth.num_impressions
    assert counters.folded == truth.num_folded
    assert counters.duplicates == truth.faults.duplicates
    assert counters.late == truth.faults.late
    assert counters.dead == truth.faults.malformed


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_every_event_is_accounted_for_once_although_job_and_trainer_were_killed(
    outcomes: tuple[Outcome, Outcome],
) -> None:
    for outcome in outcomes:
        assert outcome.audit.problems() == []
        require_planted(outcome.audit, TRUTH)


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_weights_and_quality_are_those_of_the_uninterrupted_run_bit_for_bit(
    outcomes: tuple[Outcome, Outcome],
) -> None:
    alone, killed = outcomes
    assert killed.steps == alone.steps
    assert killed.checkpoint.state.num_targets == TRUTH.num_impressions
    assert killed.checkpoint.tensors.keys() == alone.checkpoint.tensors.keys()
    for group, tensors in alone.checkpoint.tensors.items():
        assert killed.checkpoint.tensors[group].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(killed.checkpoint.tensors[group][name], tensor), f"{group}/{name}"
