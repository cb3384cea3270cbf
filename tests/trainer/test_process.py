"""The trainer as a process, on a real broker, killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from deploy.broker import ROOT, Broker
from deploy.processes import Child, await_condition
from ingest.runtime.kafka import create_topics, make_producer, read_all
from ingest.runtime.topics import SEQUENCES, SEQUENCES_DEAD
from tests.trainer.streams import end_ms, recorded
from trainer.checkpoint import list_checkpoints, read_checkpoint
from trainer.export import list_exports, read_export
from trainer.ne_log import read_ne_log

pytestmark = pytest.mark.e2e

NUM_MESSAGES = 6_000
NUM_TORN = 3


@pytest.fixture(scope="module")
def stream(broker: Broker) -> str:
    """A broker's address whose `sequences` hold a recorded stream, three torn records at its start."""
    create_topics(broker.bootstrap, 2, [SEQUENCES, SEQUENCES_DEAD])
    producer = make_producer(broker.bootstrap)
    for index in range(NUM_TORN):
        producer.send(SEQUENCES, value=b"torn %d" % index, partition=0)
    for record in recorded(num_messages=NUM_MESSAGES):
        producer.send(SEQUENCES, key=record.key, value=record.value, partition=record.partition)
    producer.flush()
    producer.close()
    return broker.bootstrap


def start(
    directory: Path, bootstrap: str, *, ranks: int = 1, settings: dict[str, str] | None = None
) -> Child:
    launcher = [str(Path(sys.executable).with_name("torchrun")), f"--nproc-per-node={ranks}"]
    return Child.start(
        "trainer",
        [*(launcher if ranks > 1 else [sys.executable]), "-m", "trainer"],
        log=directory / "trainer.log",
        cwd=ROOT,
        env={
            "FRESHET_BOOTSTRAP": bootstrap,
            "FRESHET_CODE_REVISION": "tested",
            "FRESHET_TRAINER_TASKS": "like,click",
            "FRESHET_TRAINER_CHECKPOINT_DIR": str(directory / "checkpoints"),
            "FRESHET_TRAINER_EXPORT_DIR": str(directory / "exports"),
            "FRESHET_TRAINER_NE_LOG": str(directory / "ne.jsonl"),
            "FRESHET_TRAINER_CHECKPOINT_EVERY_STEPS": "10",
            "FRESHET_TRAINER_DETERMINISTIC": "true",
            "FRESHET_TRAINER_STOP_AT_CLOCK_MS": str(end_ms(NUM_MESSAGES)),
            "FRESHET_TRAINER_TABLE_ROWS": "4096",
            "FRESHET_TRAINER_TOKEN_BUDGET": "256",
            **(settings or {}),
        },
    )


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def finish(child: Child) -> None:
    assert child.wait(timeout_seconds=180) == 0, child.log_tail()


def test_a_trainer_killed_in_the_middle_ends_as_if_it_never_was(
    stream: str, tmp_path: Path
) -> None:
    calm, hit = tmp_path / "calm", tmp_path / "hit"
    finish(start(calm, stream))

    child = start(hit, stream)
    await_condition(lambda: lines_in(hit / "ne.jsonl") > 35, child, timeout_seconds=120)
    child.kill()
    num_lines_at_kill = lines_in(hit / "ne.jsonl")
    finish(start(hit, stream))

    wanted = read_checkpoint(list_checkpoints(calm / "checkpoints")[-1])
    found = read_checkpoint(list_checkpoints(hit / "checkpoints")[-1])
    assert num_lines_at_kill < found.state.step
    assert found.state == wanted.state
    for group, tensors in wanted.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(found.tensors[group][name], tensor), (group, name)
    curve = read_ne_log(hit / "ne.jsonl")
    assert curve == read_ne_log(calm / "ne.jsonl")
    assert sum(line.num_targets for line in curve) == _targets_in(stream)
    export, _, _ = read_export(list_exports(hit / "exports")[-1])
    assert export.num_targets == _targets_in(stream)
    assert 0 < found.state.quality["like"].lifetime.ne < 0.9
    dead = {record.key: record.value for record in read_all(stream, SEQUENCES_DEAD)}
    assert dead == {b"sequences/0/%d" % i: b"torn %d" % i for i in range(NUM_TORN)}


def test_two_ranks_share_the_partitions_and_train_every_target_once(
    stream: str, tmp_path: Path
) -> None:
    finish(start(tmp_path, stream, ranks=2))
    log = (tmp_path / "trainer.log").read_text().splitlines()
    served = [json.loads(line) for line in log if '"metrics_served"' in line]
    assert sorted(entry["rank"] for entry in served) == [0, 1]
    assert len({entry["port"] for entry in served}) == 2
    state = read_checkpoint(list_checkpoints(tmp_path / "checkpoints")[-1]).state
    assert state.num_targets == _targets_in(stream)
    assert sorted(state.positions) == [0, 1]
    assert min(at.clock_ms for at in state.positions.values()) == end_ms(NUM_MESSAGES)
    assert 0 < state.quality["like"].lifetime.ne < 0.9


def test_a_live_trainer_asked_to_stop_leaves_a_checkpoint_and_an_export_of_its_last_step(
    stream: str, tmp_path: Path
) -> None:
    far_ms = end_ms(NUM_MESSAGES) + 10**9
    live = {
        "FRESHET_TRAINER_DETERMINISTIC": "false",
        "FRESHET_TRAINER_STOP_AT_CLOCK_MS": str(far_ms),
        "FRESHET_TRAINER_EXPORT_EVERY_SECONDS": "0.2",
    }
    wanted = _targets_in(stream)
    child = start(tmp_path, stream, settings=live)

    def all_trained() -> bool:
        log = tmp_path / "ne.jsonl"
        lines = read_ne_log(log) if log.exists() else []
        return bool(lines) and lines[-1].total_targets == wanted

    await_condition(all_trained, child, timeout_seconds=120)
    os.kill(child.pid, signal.SIGTERM)
    finish(child)
    state = read_checkpoint(list_checkpoints(tmp_path / "checkpoints")[-1]).state
    export, _, _ = read_export(list_exports(tmp_path / "exports")[-1])
    assert export.step == state.step == len(read_ne_log(tmp_path / "ne.jsonl"))
    assert export.num_targets == state.num_targets == wanted


def _targets_in(bootstrap: str) -> int:
    from features.sequences import CorruptSequence, Sequence, decode

    total = 0
    for record in read_all(bootstrap, SEQUENCES):
        try:
            message = decode(record.value)
        except CorruptSequence:
            continue
        total += message.num_targets if isinstance(message, Sequence) else 0
    return total
