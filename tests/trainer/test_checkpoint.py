"""A checkpoint is whole or refused, and only of the model it was made with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs

from ingest.runtime.errors import ConfigError
from trainer.checkpoint import (
    BadCheckpoint,
    Checkpoint,
    State,
    find_newest,
    list_checkpoints,
    read_checkpoint,
    require_same,
    write_checkpoint,
)
from trainer.export import Position
from trainer.quality import Sums, TaskRecord, Window


def checkpoint_of(step: int) -> Checkpoint:
    record = TaskRecord(window=Window(10))
    record.add(Sums(5, 2, 1 / 3, 0.1, 0.2))
    state = State(
        step=step, num_targets=7, clock_ms=3, positions={2: Position(offset=9, clock_ms=1)},
        quality={"like": record}, config={"model": {"hidden_dim": 4}, "table_rows": 8},
        schema="abc", code_revision="tested",
    )  # fmt: skip
    groups = ("dense", "adam", "idmap", "table", "rates", "scores")
    return Checkpoint(
        state=state, tensors={g: {"w": torch.arange(6.0).view(2, 3) + step} for g in groups}
    )


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    written = checkpoint_of(3)
    read = read_checkpoint(write_checkpoint(tmp_path, written, keep=2))
    assert read.state == written.state
    assert torch.equal(read.tensors["table"]["w"], written.tensors["table"]["w"])


def test_only_the_newest_are_kept_and_left_overs_are_cleared(tmp_path: Path) -> None:
    (tmp_path / ".000000000009.77").mkdir()
    (tmp_path / ".lock").touch()
    for step in range(1, 6):
        write_checkpoint(tmp_path, checkpoint_of(step), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["000000000004", "000000000005"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock", "000000000004", "000000000005"
    ]  # fmt: skip


def test_a_damaged_one_is_replaced_and_a_sound_one_stays(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, checkpoint_of(1), keep=2)
    (path / "adam.safetensors").write_bytes(b"damaged")
    write_checkpoint(tmp_path, checkpoint_of(1), keep=2)
    read_checkpoint(path)
    written_ns = path.stat().st_mtime_ns
    write_checkpoint(tmp_path, checkpoint_of(1), keep=2)
    assert path.stat().st_mtime_ns == written_ns


@pytest.mark.parametrize(
    "name", ["dense.safetensors", "adam.safetensors", "idmap.safetensors", "table.safetensors",
             "rates.safetensors", "scores.safetensors", "checkpoint.json"],
)  # fmt: skip
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_a_damaged_newest_is_named_and_the_one_before_wins(
    tmp_path: Path, name: str, damage: str
) -> None:
    older = write_checkpoint(tmp_path, checkpoint_of(1), keep=2)
    newest = write_checkpoint(tmp_path, checkpoint_of(2), keep=2)
    content = bytearray((newest / name).read_bytes())
    if damage == "cut":
        (newest / name).write_bytes(content[:-1])
    elif damage == "flip":
        at = content.find(b"num_targets") + 13 if name.endswith("json") else len(content) - 2
        content[at] ^= 1
        (newest / name).write_bytes(content)
    else:
        (newest / name).unlink()
    with capture_logs() as logs:
        assert find_newest(tmp_path) == older
    assert [entry["path"] for entry in logs] == [str(newest)]
    assert logs[0]["reason"]


def test_no_directory_and_no_checkpoint_mean_a_new_run(tmp_path: Path) -> None:
    assert find_newest(tmp_path / "none") is None
    assert find_newest(tmp_path) is None


def test_when_none_can_be_read_nothing_begins_anew_by_itself(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, checkpoint_of(1), keep=2)
    (path / "adam.safetensors").unlink()
    with pytest.raises(BadCheckpoint, match="no checkpoint is readable"):
        find_newest(tmp_path)
    shutil.rmtree(path)
    assert find_newest(tmp_path) is None


def test_every_difference_to_the_configured_model_is_named() -> None:
    state = checkpoint_of(1).state
    require_same(state, {"model": {"hidden_dim": 4}, "table_rows": 8}, "abc")
    with pytest.raises(ConfigError) as refused:
        require_same(state, {"model": {"hidden_dim": 5}, "table_rows": 9}, "xyz")
    for part in ("model.hidden_dim: checkpoint 4, configured 5", "table_rows", "schema"):
        assert part in refused.value.detail
