"""What a person types becomes a log, or an error that names what there is."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from ingest.adapters import movielens
from ingest.adapters.catalog import open_log, synthetic_config
from ingest.adapters.log import LogError
from ingest.runtime.errors import ConfigError
from tests.ingest.logs import events_of

RATINGS = (
    "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "196\t242\t3\t881250949\n186\t302\t4\t800000000\n22\t377\t5\t881250949\n"
)


def put_wheel(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    wheel = directory / movielens._WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(movielens._MEMBER, RATINGS)
    monkeypatch.setattr(movielens, "_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    return wheel


def test_ratings_become_likes_and_rates_in_time_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_wheel(tmp_path, monkeypatch)
    events = events_of(open_log("ml-100k", tmp_path))
    assert [(e.event_id, e.action, e.event_time_ms, e.context) for e in events] == [
        ("ml-1", "like", 800_000_000_000, {"rating": 4.0}),
        ("ml-0", "rate", 881_250_949_000, {"rating": 3.0}),
        ("ml-2", "like", 881_250_949_000, {"rating": 5.0}),
    ]


def test_a_wheel_with_another_checksum_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = put_wheel(tmp_path, monkeypatch)
    wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(LogError, match="not the one expected"):
        open_log("ml-100k", tmp_path)


def test_without_pip_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(movielens, "_pips", lambda: [["/nowhere/pip"]])
    with pytest.raises(LogError, match=r"/nowhere/pip.*hint: put recbole.*synthetic"):
        open_log("ml-100k", tmp_path / "cache")


def test_a_failed_download_tells_what_pip_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(movielens, "_pips", lambda: [["sh", "-c", "echo no route >&2; exit 1"]])
    with pytest.raises(LogError, match="no route"):
        open_log("ml-100k", tmp_path)


def test_an_unknown_name_is_an_error_that_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"'ml-10m'.*ml-100k, synthetic.*\.parquet"):
        open_log("ml-10m", tmp_path)


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.csv.gz", "a.jsonl", "a.jsonl.gz"])
def test_a_missing_file_of_any_kind_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(LogError, match="no such log"):
        open_log(str(tmp_path / name), tmp_path)


def test_a_synthetic_log_takes_settings(tmp_path: Path) -> None:
    log = open_log("synthetic:num_impressions=50,seed=9", tmp_path)
    assert sum(event.action == "impression" for event in events_of(log)) == 50
    assert log.name == "synthetic-9"


@pytest.mark.parametrize(
    ("settings", "message"),
    [("colour=3", "colour"), ("seed=x", "seed=x"), ("seed", "seed"), ("seed=1.5", "seed=1.5")],
)
def test_a_setting_that_is_none_is_named(settings: str, message: str) -> None:
    with pytest.raises(LogError, match=message):
        synthetic_config(settings)


@pytest.mark.parametrize(
    "setting", ["late=2", "seed=-1", "base_log_odds=nan", "taste=inf", "quality=-inf"]
)
def test_a_setting_that_cannot_work_is_named(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        synthetic_config(setting)
