"""A replay against a producer that only takes notes: which rows count as sent, and when."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from ingest.adapters.arrival import Arrival
from ingest.adapters.log import RecordLog
from ingest.replay import ReplayConfig, ReplayProgress, ReplaySummary, replay
from ingest.replay_state import ReplayStateError
from ingest.runtime.errors import FreshetError

FUTURE_MS = 5 * 60_000


class Notes:
    """Stands in for the producer; confirms at a flush."""

    bootstrap = "notes"
    num_partitions = 1

    def __init__(self) -> None:
        self.num_sent = self.num_acknowledged = self.num_dead = 0
        self.heartbeats: list[int] = []

    def send_raw(self, key: bytes | None, value: bytes, *, partition: int | None = None) -> None:
        self.num_sent += 1

    def heartbeat_all(self, heartbeat_ms: int) -> None:
        self.heartbeats.append(heartbeat_ms)

    def settle(self) -> None:
        """Nothing is decided before a flush."""

    def flush(self) -> None:
        self.num_acknowledged = self.num_sent


class Clock:
    """A clock that only waiting moves; stands in for module `time` and for the stop signal."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def time(self) -> float:
        return self.seconds

    monotonic = time

    def wait(self, timeout_seconds: float) -> bool:
        self.seconds += timeout_seconds
        return False

    def requested(self) -> bool:
        return False


@pytest.fixture(autouse=True)
def _no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.replay.cluster_id", lambda bootstrap: bootstrap)


def run(
    times_ms: list[int],
    directory: Path,
    producer: Notes,
    *,
    stop: Clock | None = None,
    **settings: Any,
) -> ReplaySummary:
    size = len(times_ms)
    log = RecordLog("log", {}, keys=[b"1"] * size, values=[b"{}"] * size, times_ms=times_ms)
    config = ReplayConfig(state_directory=directory, **settings)
    return replay(log, producer, config, stop=stop)  # type: ignore[arg-type]


def test_the_closing_heartbeats_go_beyond_the_last_row_that_is_no_future(tmp_path: Path) -> None:
    producer = Notes()
    far_ms = int(time.time() * 1000) + 10 * FUTURE_MS
    run([5, 70, far_ms, far_ms], tmp_path, producer, flush_after_ms=1_000)
    assert producer.heartbeats == [1_070, 1_071]


def test_the_closing_heartbeats_follow_the_newest_row_wherever_it_stands(tmp_path: Path) -> None:
    producer = Notes()
    run([5, 900, 70], tmp_path, producer, flush_after_ms=1_000)
    assert producer.heartbeats == [1_900, 1_901]


def test_a_late_row_does_not_hold_a_paced_replay_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("ingest.replay.time", clock)
    assert run([0, 3_000, 1_000, 4_000], tmp_path, Notes(), stop=clock, speed=1.0).complete
    assert clock.seconds == 4


def test_progress_in_one_order_is_not_taken_for_another(tmp_path: Path) -> None:
    log = RecordLog("log", {}, keys=[b"1"] * 3, values=[b"{}"] * 3, times_ms=[1, 2, 3])
    config = ReplayConfig(state_directory=tmp_path)
    replay(log, Notes(), config)  # type: ignore[arg-type]
    late = log.arriving(Arrival(late_fraction=1.0))
    with pytest.raises(ReplayStateError, match="differs in: arrival"):
        replay(late, Notes(), config)  # type: ignore[arg-type]


def test_a_row_too_recent_for_closing_heartbeats_is_an_error_and_only_they_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = Notes()
    now_seconds = 1_700_000_000
    monkeypatch.setattr("ingest.replay.time.time", lambda: now_seconds)
    times_ms = [5, now_seconds * 1000 - 40_000]
    with pytest.raises(FreshetError, match="again in 61 s") as caught:
        run(times_ms, tmp_path, producer, flush_after_ms=FUTURE_MS + 100_000)
    assert caught.value.retriable
    assert producer.heartbeats == []
    now_seconds += 61
    summary = run(times_ms, tmp_path, producer, flush_after_ms=FUTURE_MS + 100_000)
    assert (summary.num_events, len(producer.heartbeats)) == (0, 2)
    assert producer.heartbeats[1] <= now_seconds * 1000 + FUTURE_MS


def test_rows_of_the_future_do_not_hold_a_paced_replay_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("ingest.replay.time", clock)
    assert run([0, 3_000, 10 * FUTURE_MS], tmp_path, Notes(), stop=clock, speed=1.0).complete
    assert clock.seconds == 3


def test_a_slow_replay_tells_and_saves_where_it_is_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("ingest.replay.time", clock)
    seen: list[int] = []
    log = RecordLog("log", {}, keys=[b"1"] * 9, values=[b"{}"] * 9, times_ms=[0] * 9)
    config = ReplayConfig(state_directory=tmp_path, events_per_second=0.5)
    producer = Notes()
    monkeypatch.setattr(producer, "settle", producer.flush)

    def look(progress: ReplayProgress) -> None:
        seen.append(progress.row)
        if progress.row == 5:
            (saved,) = tmp_path.glob("*.json")
            assert b'"next_row":4' in saved.read_bytes()

    replay(log, producer, config, on_progress=look, stop=clock)  # type: ignore[arg-type]
    assert seen == [2, 3, 4, 5, 6, 7, 8, 9]


def test_records_in_flight_before_a_replay_are_none_of_its_rows(tmp_path: Path) -> None:
    producer = Notes()
    producer.num_sent = 10
    producer.flush = lambda: setattr(producer, "num_acknowledged", 11)  # type: ignore[method-assign]
    assert run([1, 2, 3], tmp_path, producer).next_row == 1
