"""Progress is kept whole, and only for the replay it belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingest.replay import ReplayConfig
from ingest.replay_state import ReplayState, ReplayStateError, StateFile
from ingest.runtime.errors import ConfigError


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "sub" / "log.json", ReplayState, {"path": "a"})
    assert file.load() is None
    file.save(ReplayState(next_row=5))
    file.save(ReplayState(next_row=7, flushed=True))
    assert file.load() == ReplayState(next_row=7, flushed=True)
    assert [path.name for path in file.path.parent.iterdir()] == ["log.json"]


def test_progress_of_another_log_is_refused_by_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    StateFile(path, ReplayState, {"path": "a", "num_bytes": 1}).save(ReplayState(next_row=5))
    with pytest.raises(ReplayStateError, match=r"differs in: num_bytes.*--restart"):
        StateFile(path, ReplayState, {"path": "a", "num_bytes": 2}).load()


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"identity":{},"state":{"next_row":"x"}}'])
def test_damaged_progress_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log.json"
    path.write_bytes(content)
    with pytest.raises(ReplayStateError, match="cannot be read"):
        StateFile(path, ReplayState, {}).load()


def test_forgotten_progress_is_gone(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "log.json", ReplayState, {})
    file.forget()
    file.save(ReplayState(next_row=5))
    file.forget()
    assert file.load() is None


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("skip", -1),
        ("limit", 0),
        ("speed", -2.0),
        ("speed", float("nan")),
        ("events_per_second", float("nan")),
        ("events_per_second", 0.0),
        ("flush_after_ms", -1),
        ("save_every_rows", 0),
    ],
)
def test_a_setting_that_cannot_work_is_named(tmp_path: Path, setting: str, value: float) -> None:
    with pytest.raises(ConfigError, match=setting):
        ReplayConfig(state_directory=tmp_path, **{setting: value})  # type: ignore[arg-type]


def test_speed_and_rate_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        ReplayConfig(state_directory=tmp_path, speed=2.0, events_per_second=5.0)
