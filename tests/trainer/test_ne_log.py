"""The log of steps: each step once, also for who reads while it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingest.runtime.errors import FreshetError
from trainer.ne_log import NeLog, NeLogFollower, StepLine, read_ne_log


def line(step: int) -> StepLine:
    return StepLine(
        step=step, num_targets=1, total_targets=step, clock_ms=step, skipped=False, tasks={}
    )


def test_a_follower_sees_every_complete_line_once_and_no_part_of_one(tmp_path: Path) -> None:
    path = tmp_path / "ne.jsonl"
    follower = NeLogFollower(path)
    assert follower.follow() == []
    log = NeLog(path, step=0)
    for step in (1, 2):
        log.append(line(step))
    assert follower.follow() == [line(1), line(2)]
    whole = path.read_bytes()
    log.append(line(3))
    added = path.read_bytes()[len(whole) :]
    path.write_bytes(whole + added[:7])
    assert follower.follow() == [line(1), line(2)]
    path.write_bytes(whole + added)
    assert follower.follow() == [line(1), line(2), line(3)]
    log.close()


def test_a_follower_lets_go_of_lines_a_resumed_run_took_back(tmp_path: Path) -> None:
    path = tmp_path / "ne.jsonl"
    log = NeLog(path, step=0)
    for step in range(1, 6):
        log.append(line(step))
    log.close()
    follower = NeLogFollower(path)
    assert len(follower.follow()) == 5
    resumed = NeLog(path, step=2)
    assert follower.follow() == read_ne_log(path) == [line(1), line(2)]
    resumed.append(line(3))
    resumed.close()
    assert follower.follow() == [line(1), line(2), line(3)]


def test_a_follower_starts_over_although_a_resumed_run_has_written_more_than_it_took_back(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ne.jsonl"
    log = NeLog(path, step=0)
    for step in (1, 2, 3):
        log.append(line(step))
    log.close()
    follower = NeLogFollower(path)
    assert len(follower.follow()) == 3
    resumed = NeLog(path, step=1)
    for step in (20, 30, 40, 50):
        resumed.append(line(step))
    resumed.close()
    assert follower.follow() == read_ne_log(path)


@pytest.mark.parametrize("damage", [b"{]\n", b"\xff\xfe\n", b"\n"])
def test_a_line_that_cannot_be_read_is_shown_with_its_file(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "ne.jsonl"
    path.write_bytes(damage)
    for read in (read_ne_log, lambda path: NeLogFollower(path).follow()):
        with pytest.raises(FreshetError, match=r"step log not readable: .*ne.jsonl"):
            read(path)
