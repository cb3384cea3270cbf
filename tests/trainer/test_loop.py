"""The loop killed at any step, resumed, and compared with the one left alone."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from ingest.runtime.errors import ConfigError
from ingest.runtime.kafka import Record
from ingest.runtime.lock import lock_directory
from ingest.runtime.service import StopSignal
from tests.trainer.loop_runs import (
    CONFIG,
    NUM_MESSAGES,
    Killed,
    assert_same,
    contents,
    run_killed,
    run_once,
)
from tests.trainer.streams import TASKS, Buried, end_ms, recorded, with_corrections
from trainer.checkpoint import Checkpoint, list_checkpoints, read_checkpoint, write_checkpoint
from trainer.export import list_exports, read_export
from trainer.learner import Learner, Scored
from trainer.ne_log import NeLog, StepLine, read_ne_log
from trainer.ranks import Ranks
from trainer.session import Session


class StopAfter(StopSignal):
    """A stop request that comes after some looks."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._looks = looks

    def requested(self) -> bool:
        self._looks -= 1
        return self._looks < 0


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return with_corrections(recorded(num_messages=NUM_MESSAGES))


@pytest.fixture(scope="module")
def whole(
    alone: Ranks, records: list[Record], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Checkpoint, list[StepLine]]:
    directory = tmp_path_factory.mktemp("whole")
    session = run_once(directory, alone, records=records)
    return contents(session), read_ne_log(directory / "ne.jsonl")


def test_a_run_killed_at_any_step_and_restarted_ends_with_the_same_weights_and_curve(
    alone: Ranks,
    records: list[Record],
    whole: tuple[Checkpoint, list[StepLine]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for kill_at in range(1, whole[0].state.step, 3):
        directory = tmp_path / str(kill_at)
        run_killed(directory, alone, kill_at, monkeypatch, records=records, seed=kill_at)
        session = run_once(directory, alone, records=records, seed=kill_at + 100)
        assert_same(contents(session), whole[0])
        assert read_ne_log(directory / "ne.jsonl") == whole[1]


def test_a_run_that_fails_holds_its_directory_until_nothing_is_written_any_more(
    alone: Ranks, records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_step = Session.train

    def dying(self: Session, batch: object) -> StepLine:
        if self.step == 4:
            raise Killed
        return train_step(self, batch)  # type: ignore[arg-type]

    def slow(directory: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
        time.sleep(0.3)
        return write_checkpoint(directory, checkpoint, keep=keep)

    monkeypatch.setattr(Session, "train", dying)
    monkeypatch.setattr("trainer.loop.write_checkpoint", slow)
    with pytest.raises(Killed):
        run_once(tmp_path, alone, records=records)
    assert [int(path.name) for path in list_checkpoints(tmp_path / "checkpoints")] == [3]


def test_a_run_stopped_in_the_middle_checkpoints_and_goes_on_bit_for_bit(
    alone: Ranks, records: list[Record], whole: tuple[Checkpoint, list[StepLine]], tmp_path: Path
) -> None:
    stopped = run_once(tmp_path, alone, records=records, stop=StopAfter(14))
    assert 0 < stopped.step < whole[0].state.step
    session = run_once(tmp_path, alone, records=records, seed=3)
    assert_same(contents(session), whole[0])
    assert read_ne_log(tmp_path / "ne.jsonl") == whole[1]


def test_every_target_and_every_correction_is_trained_once(
    records: list[Record], whole: tuple[Checkpoint, list[StepLine]]
) -> None:
    from features.sequences import Correction, Sequence, decode

    messages = [decode(record.value) for record in records]
    num_targets = sum(m.num_targets for m in messages if isinstance(m, Sequence))
    num_corrections = sum(isinstance(message, Correction) for message in messages)
    checkpoint, lines = whole
    assert checkpoint.state.num_targets == num_targets
    assert checkpoint.state.num_corrections == num_corrections > 5
    assert sum(line.num_corrections for line in lines) == num_corrections
    assert lines[-1].total_corrections == num_corrections
    assert checkpoint.state.quality["like"].lifetime.num_targets == num_targets
    assert [line.step for line in lines] == list(range(1, checkpoint.state.step + 1))
    assert sum(line.num_targets for line in lines) == num_targets


def test_the_model_learns_what_the_items_say_and_never_scores_what_it_learned(
    alone: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels of new items cannot be known: NE below 1 on them means learning before scoring."""
    random = np.random.default_rng(1)
    from tests.trainer.streams import LIKE, progress_record, targets_record

    memorised = []
    for index in range(240):
        tokens = [(10_000 + 3 * index + k, LIKE * int(random.integers(0, 2))) for k in range(3)]
        memorised.append(
            targets_record(index % 2, index // 2, 10**12 + index, user_id=index % 2, tokens=tokens,
                           num_targets=3)
        )  # fmt: skip
    memorised += [progress_record(p, 120, end_ms(NUM_MESSAGES)) for p in (0, 1)]
    config = replace(
        CONFIG, table_rows=2048, table_learning_rate=0.5, dense_learning_rate=0.02,
        model=replace(CONFIG.model, tasks=TASKS[:1]),
    )  # fmt: skip
    session = run_once(tmp_path / "right", alone, records=memorised, config=config)
    honest = session.records["like"].lifetime.ne
    assert honest is not None
    assert honest >= 0.99

    score = Learner.score

    def learns_first(self: Learner, batch: object, **at: int) -> Scored:
        for _ in range(3):
            self.learn(score(self, batch, **at))  # type: ignore[arg-type]
        return score(self, batch, **at)  # type: ignore[arg-type]

    monkeypatch.setattr(Learner, "score", learns_first)
    session = run_once(tmp_path / "wrong", alone, records=memorised, config=config)
    cheating = session.records["like"].lifetime.ne
    assert cheating is not None
    assert cheating < 0.9


def test_a_step_that_is_not_finite_is_skipped_and_changes_no_weight(
    alone: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer import learner as learner_module

    records = recorded(num_messages=60)
    before: list[dict[str, torch.Tensor]] = []
    after: list[dict[str, torch.Tensor]] = []
    original = Learner.learn

    def poisoned(self: Learner, scored: Scored) -> bool:
        if len(before) or self.idmap.num_ids < 5:
            return original(self, scored)
        before.append(self.dense() | {"table": self.table.gather().weight})  # type: ignore[union-attr]
        with monkeypatch.context() as patch:
            patch.setattr(
                learner_module, "ranking_loss", lambda logits, *_: logits.sum() * torch.nan
            )
            learned = original(self, scored)
        after.append(self.dense() | {"table": self.table.gather().weight})  # type: ignore[union-attr]
        return learned

    monkeypatch.setattr(Learner, "learn", poisoned)
    session = run_once(tmp_path, alone, records=records, stop_at_clock_ms=end_ms(60))
    lines = read_ne_log(tmp_path / "ne.jsonl")
    (skipped,) = [index for index, line in enumerate(lines) if line.skipped]
    assert lines[skipped].num_targets == 0
    assert lines[skipped].total_targets == sum(line.num_targets for line in lines[:skipped])
    assert lines[skipped].tasks["like"]["log_loss_sum"] is not None  # scored all the same
    assert not lines[-1].skipped
    assert lines[-1].total_targets == sum(line.num_targets for line in lines) == session.num_targets
    assert session.records["like"].lifetime.num_targets > session.num_targets
    for name, tensor in before[0].items():
        assert torch.equal(tensor, after[0][name]), name


def test_a_corrupt_record_is_buried_and_the_rest_trains(
    alone: Ranks, records: list[Record], whole: tuple[Checkpoint, list[StepLine]], tmp_path: Path
) -> None:
    torn = []
    shift = {0: 0, 1: 0}
    for index, record in enumerate(records):
        torn.append(record._replace(offset=record.offset + shift[record.partition]))
        if index % 40 == 7:
            shift[record.partition] += 1
            torn.append(torn[-1]._replace(offset=torn[-1].offset + 1, value=record.value[:-1]))
    buried = Buried()
    session = run_once(tmp_path, alone, records=torn, buried=buried)
    assert len(buried.reasons) == sum(shift.values())
    assert contents(session).tensors["dense"].keys() == whole[0].tensors["dense"].keys()
    for name, tensor in whole[0].tensors["dense"].items():
        assert torch.equal(tensor, contents(session).tensors["dense"][name])


def test_an_export_holds_the_weights_of_the_cut(
    alone: Ranks, records: list[Record], whole: tuple[Checkpoint, list[StepLine]], tmp_path: Path
) -> None:
    session = run_once(tmp_path, alone, records=records, export_every_seconds=0.001)
    exports = list_exports(tmp_path / "exports")
    assert 1 <= len(exports) <= 4
    export, dense, table = read_export(exports[-1])
    assert export.step == session.step == whole[0].state.step
    assert export.watermark_ms == end_ms(NUM_MESSAGES)
    learned, counted = table["item_weight"].split([8, CONFIG.model.num_counted], dim=1)
    assert torch.equal(learned, whole[0].tensors["table"]["weight"])
    assert np.array_equal(counted, session.learner.rates.figures(np.arange(len(counted))))
    assert counted[1:].std(0).min() > 0
    assert torch.equal(table["row_ids"], whole[0].tensors["idmap"]["row_ids"])
    for name, tensor in dense.items():
        assert torch.equal(tensor, whole[0].tensors["dense"][name])
    assert export.quality["like"].ne_lifetime == session.records["like"].lifetime.ne


def test_a_checkpoint_of_another_model_is_refused_by_name(
    alone: Ranks, records: list[Record], tmp_path: Path
) -> None:
    run_once(tmp_path, alone, records=records)
    other = replace(CONFIG, model=replace(CONFIG.model, hidden_dim=32))
    with pytest.raises(ConfigError, match=r"model.hidden_dim: checkpoint 16, configured 32"):
        run_once(tmp_path, alone, records=records, config=other)


def test_a_hand_over_the_kill_left_out_is_made_up_for_at_the_next_start(
    alone: Ranks, records: list[Record], tmp_path: Path
) -> None:
    run_once(tmp_path, alone, records=records)
    (export,) = list_exports(tmp_path / "exports")
    shutil.rmtree(export)
    (tmp_path / "exports" / f".{export.name}.77").mkdir()
    run_once(tmp_path, alone, records=records)
    assert list((tmp_path / "exports").iterdir()) == [export]


def test_a_damaged_newest_checkpoint_is_written_anew_and_its_export_taken_back(
    alone: Ranks, records: list[Record], whole: tuple[Checkpoint, list[StepLine]], tmp_path: Path
) -> None:
    run_once(tmp_path, alone, records=records)
    before, newest = list_checkpoints(tmp_path / "checkpoints")[-2:]
    (newest / "table.safetensors").write_bytes(b"damaged")
    with capture_logs() as logs:
        run_once(tmp_path, alone, records=records)
    taken_back = {"export_step": int(newest.name), "checkpoint_step": int(before.name)}
    assert [
        e for e in logs if e["event"] == "export_taken_back" and taken_back.items() <= e.items()
    ]
    assert_same(read_checkpoint(newest), whole[0])
    assert list_exports(tmp_path / "exports")[-1].name == newest.name


def test_a_checkpoint_damaged_since_it_was_gone_on_from_takes_no_sound_ones_place(
    alone: Ranks, records: list[Record], tmp_path: Path
) -> None:
    run_once(tmp_path, alone, records=records, checkpoint_every_steps=2)
    sound, *damaged = list_checkpoints(tmp_path / "checkpoints")
    assert len(damaged) == 2
    for path in damaged:
        (path / "checkpoint.json").unlink()
    run_once(tmp_path, alone, records=records, checkpoint_every_steps=1000, stop=StopAfter(1))
    assert list_checkpoints(tmp_path / "checkpoints") == [sound]


def test_a_second_trainer_on_the_same_checkpoints_is_refused(
    alone: Ranks, records: list[Record], tmp_path: Path
) -> None:
    hint = "the first"
    with (
        lock_directory(tmp_path / "checkpoints", hint=hint),
        pytest.raises(ConfigError, match=r"directory in use.*stop the other trainer"),
    ):
        run_once(tmp_path, alone, records=records)


def test_a_checkpoint_with_partitions_the_topic_lacks_is_refused(
    alone: Ranks, records: list[Record], tmp_path: Path
) -> None:
    run_once(tmp_path, alone, records=records)
    fewer = Session(CONFIG, alone, starts={0: 0}, code_revision="tested")
    with pytest.raises(ConfigError, match=r"partitions the topic lacks: \[1\]"):
        fewer.resume(tmp_path / "checkpoints")


def test_lines_are_on_the_disk_before_the_checkpoint_that_is_past_them(
    alone: Ranks, records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    effects: list[str] = []
    monkeypatch.setattr(NeLog, "sync", lambda _: effects.append("sync"))
    original = Session.checkpoint

    def checkpoint(self: Session) -> Checkpoint | None:
        effects.append("checkpoint")
        return original(self)

    monkeypatch.setattr(Session, "checkpoint", checkpoint)
    run_once(tmp_path, alone, records=records)
    assert effects[::2] == ["sync"] * (len(effects) // 2)
    assert effects[1::2] == ["checkpoint"] * (len(effects) // 2)
