"""Configuration, checkpoints on disk, the framing of micro-batches, how a run ends; no Flink."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from py4j.protocol import Py4JError  # type: ignore[import-untyped]

from features.checkpoints import delete_runs_before, newest_checkpoint, next_run
from features.config import FeaturesConfig
from features.gateway import end_orphan
from features.operator import FIELD_SEPARATOR, RECORD_SEPARATOR, unpack_records
from features.service import _watch
from features.settings import FeaturesSettings
from ingest.runtime.errors import ConfigError, FreshetError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bound_ms", -1),
        ("emit_after_ms", 59_999),
        ("max_targets", 0),
        ("max_pending", 15),
        ("remembered_ids", 0),
        ("micro_batch_seconds", 0.0),
        ("micro_batch_seconds", float("nan")),
        ("checkpoint_interval_seconds", 10_000.0),
    ],
)
def test_a_value_that_cannot_work_is_named(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{field}.*{field}={value}"):
        FeaturesConfig(**{field: value})  # type: ignore[arg-type]


def test_the_environment_sets_every_field_of_the_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in FeaturesConfig.__dataclass_fields__:
        assert name in FeaturesSettings.model_fields
    monkeypatch.setenv("FRESHET_FEATURES_MAX_TARGETS", "7")
    assert FeaturesSettings().config() == FeaturesConfig(max_targets=7)


def complete(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "_metadata").touch()
    return path


def test_the_newest_checkpoint_is_the_newest_runs_last_completed(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    first = next_run(tmp_path)
    complete(first / "job" / "chk-9")
    tenth = complete(first / "job" / "chk-10")
    (first / "job" / "chk-11").mkdir()
    assert newest_checkpoint(tmp_path) == tenth
    second = next_run(tmp_path)
    assert second != first
    assert newest_checkpoint(tmp_path) == tenth
    one = complete(second / "other" / "chk-1")
    assert newest_checkpoint(tmp_path) == one
    savepoint = complete(second / "savepoint-1a2b")
    assert newest_checkpoint(tmp_path) == savepoint


def test_older_runs_go_once_the_new_one_can_be_restored(tmp_path: Path) -> None:
    first, second = next_run(tmp_path), next_run(tmp_path)
    kept = complete(first / "job" / "chk-1")
    delete_runs_before(second)
    assert newest_checkpoint(tmp_path) == kept
    complete(second / "job" / "chk-1")
    delete_runs_before(second)
    assert not first.exists()
    assert second.exists()


def test_an_empty_note_of_the_jvm_means_that_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "jvm.pid").touch()
    end_orphan(tmp_path)


class NoCluster:
    """A job client whose cluster is gone."""

    def get_job_status(self) -> None:
        raise Py4JError("MiniCluster is not yet running or has already been shut down.")


def test_a_job_whose_cluster_is_gone_is_one_message(tmp_path: Path) -> None:
    alive = SimpleNamespace(check_alive=lambda: None)
    unasked = SimpleNamespace(wait=lambda seconds: False)
    log = structlog.get_logger()
    with pytest.raises(FreshetError, match=r"job ended: MiniCluster.*start again") as caught:
        _watch(NoCluster(), alive, tmp_path, unasked, log)  # type: ignore[arg-type]
    assert caught.value.retriable


@given(st.lists(st.binary(max_size=20), min_size=1))
def test_any_bytes_survive_the_framing_of_a_micro_batch(values: list[bytes]) -> None:
    # What the SQL of the source does, in Python.
    records = [
        FIELD_SEPARATOR.join([str(offset), str(offset + 5), value.decode("latin-1")])
        for offset, value in enumerate(values)
    ]
    payload = RECORD_SEPARATOR.join(records).encode()
    expected = [(offset, offset + 5, value) for offset, value in enumerate(values)]
    assert list(unpack_records(payload)) == expected
