"""The locks: pinned by hash, without addresses, one version of a package everywhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from deploy.doctor import locked_versions
from tests.project.sources import ROOT, name_of

FOLDER = ROOT / "deploy" / "locks"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ROOM_LOCKS = [FOLDER / f"{room}.txt" for room in ("ingest", "features", "trainer", "publisher")]
LOCKS = [FOLDER / "all.txt", FOLDER / "bootstrap.txt", *ROOM_LOCKS]


@pytest.mark.parametrize("lock", sorted(FOLDER.glob("*.*")), ids=name_of)
def test_no_lock_names_an_address(lock: Path) -> None:
    if lock.suffix != ".md":
        assert "://" not in lock.read_text()
        assert "index-url" not in lock.read_text()


@pytest.mark.parametrize("lock", LOCKS, ids=name_of)
def test_every_package_is_pinned_by_hash(lock: Path) -> None:
    text = lock.read_text()
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(locked_versions(lock))
    assert [each.splitlines()[0] for each in entries if "--hash=sha256:" not in each] == []


@pytest.mark.parametrize("lock", ROOM_LOCKS, ids=name_of)
def test_a_rooms_lock_agrees_with_the_whole(lock: Path) -> None:
    whole = locked_versions(FOLDER / "all.txt").items()
    part = locked_versions(lock).items()
    assert part - whole == set()
    assert len(part) < len(whole)


@pytest.mark.parametrize("extra", ["", *PROJECT["optional-dependencies"]])
def test_the_lock_has_what_the_project_asks_for(extra: str) -> None:
    optional = PROJECT["optional-dependencies"]
    wanted = optional[extra] if extra else PROJECT["dependencies"]
    lock = FOLDER / f"{extra}.txt"
    locked = locked_versions(lock if lock in ROOM_LOCKS else FOLDER / "all.txt")
    exact = dict(each.split("==") for each in wanted if "==" in each)
    assert {name: locked.get(name) for name in exact} == exact
    names = {re.split(r"[\[<>=]", each)[0] for each in wanted} - {"freshet"}
    assert names - locked.keys() == set()


def test_fbgemm_without_a_driver_is_the_only_fbgemm() -> None:
    locked = locked_versions(FOLDER / "all.txt")
    assert "fbgemm-gpu-cpu" in locked
    assert "fbgemm-gpu" not in locked
