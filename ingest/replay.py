"""Replay: a log goes through the same door as live events, in the order of its arrival, resumably."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ingest.adapters.log import EventLog, Rows
from ingest.metrics import REPLAY_EVENT_TIME, REPLAY_ROW
from ingest.producer import EventProducer
from ingest.replay_state import ReplayState, StateFile
from ingest.runtime.errors import ConfigError, FreshetError
from ingest.runtime.kafka import cluster_id
from ingest.runtime.service import StopSignal

# Later than this is no history: features refuse it, as an event and as a heartbeat.
_FUTURE_MS = 5 * 60_000
_REPORT_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """Which rows of a log to send, and how fast.

    Args:
        state_directory: where progress and the table of hashed ids are kept.
        skip: rows left out at the beginning of the log.
        limit: rows sent after those; None for all.
        speed: event time runs this many times faster than the clock on the wall; None for as fast
            as the broker takes them.
        events_per_second: a fixed rate instead.
        flush_after_ms: when all is sent, heartbeats move every partition's clock this far beyond
            the last event, so that what waits for later events is emitted; None to send none.
        restart: forget earlier progress.
        save_every_rows: rows between two writes of the state, which is written every second too.

    Raises:
        ConfigError: a value cannot work.
    """

    state_directory: Path
    skip: int = 0
    limit: int | None = None
    speed: float | None = None
    events_per_second: float | None = None
    flush_after_ms: int | None = None
    restart: bool = False
    save_every_rows: int = 10_000

    def __post_init__(self) -> None:
        if self.skip < 0:
            raise ConfigError("skip must not be negative", detail=f"It is {self.skip}.")
        if self.save_every_rows < 1:
            raise ConfigError(
                "save_every_rows must be at least 1", detail=f"It is {self.save_every_rows}."
            )
        for name in ("limit", "speed", "events_per_second", "flush_after_ms"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0", detail=f"It is {value}.")
        if self.speed is not None and self.events_per_second is not None:
            raise ConfigError(
                "speed and events_per_second exclude each other",
                detail=f"They are {self.speed} and {self.events_per_second}.",
            )


@dataclass(frozen=True, kw_only=True)
class ReplaySummary:
    """What a replay did; all rows from `first_row` to `next_row` are confirmed by the broker."""

    log: str
    first_row: int
    next_row: int
    end_row: int
    num_events: int
    num_dead: int
    num_heartbeats: int
    seconds: float
    first_event_ms: int | None
    last_event_ms: int | None

    @property
    def complete(self) -> bool:
        """Whether every row that was asked for is sent."""
        return self.next_row == self.end_row


@dataclass(frozen=True)
class ReplayProgress:
    """Rows sent so far, of how many, and the event time reached."""

    row: int
    end_row: int
    event_time_ms: int


OnProgress = Callable[[ReplayProgress], None]


def replay(
    log: EventLog,
    producer: EventProducer,
    config: ReplayConfig,
    *,
    on_progress: OnProgress | None = None,
    stop: StopSignal | None = None,
) -> ReplaySummary:
    """Send rows of a log to topic `events`; a refused row goes to `events.dead`.

    Run again with the same state directory, it goes on behind the last row known to be confirmed.
    A row may be sent twice by that, never left out; it has the same event id both times, by which
    the features job tells a duplicate.

    Raises:
        BrokerError: the broker did not confirm in time; progress is saved.
        ReplayStateError: the saved progress is about another log, range or broker.
        FreshetError: it is too early for the closing heartbeats; all rows are sent.
    """
    return _Replay(log, producer, config, on_progress, stop or StopSignal()).run()


class _Replay:
    def __init__(
        self,
        log: EventLog,
        producer: EventProducer,
        config: ReplayConfig,
        on_progress: OnProgress | None,
        stop: StopSignal,
    ) -> None:
        self._log = log
        self._producer = producer
        self._config = config
        self._on_progress = on_progress
        self._stop = stop
        self._begin = begin = min(config.skip, len(log))
        self._end = len(log) if config.limit is None else min(len(log), begin + config.limit)
        self._file = StateFile(
            config.state_directory / f"{log.name}.{begin}-{self._end}.json",
            ReplayState,
            identity={**log.identity, "cluster": cluster_id(producer.bootstrap)},
        )
        if config.restart:
            self._file.forget()
        self._state = self._file.load() or ReplayState(next_row=begin)
        self._first_row = self._state.next_row
        # What the producer still has in flight is confirmed before our first row.
        self._sent_before = producer.num_sent
        self._dead_before = producer.num_dead
        self._row = self._first_row
        self._save_at_row = self._row + config.save_every_rows
        self._save_at = time.monotonic() + _REPORT_SECONDS
        self._first_event_ms: int | None = None
        self._last_event_ms: int | None = None
        self._pace = _Pace(config, self._stop)

    def run(self) -> ReplaySummary:
        started = time.monotonic()
        if len(self._log.ids):
            self._log.ids.write(self._config.state_directory / f"{self._log.name}.ids.jsonl")
        try:
            self._send_rows()
            self._producer.flush()
        finally:
            self._save()
        num_heartbeats = 0
        num_dead = self._producer.num_dead - self._dead_before
        if self._row == self._end and not self._state.flushed:
            num_heartbeats = self._flush_clock()
        return ReplaySummary(
            log=self._log.name,
            first_row=self._first_row,
            next_row=self._state.next_row,
            end_row=self._end,
            num_events=self._row - self._first_row - num_dead,
            num_dead=num_dead,
            num_heartbeats=num_heartbeats,
            seconds=time.monotonic() - started,
            first_event_ms=self._first_event_ms,
            last_event_ms=self._last_event_ms,
        )

    def _send_rows(self) -> None:
        for rows in self._log.read(self._row, self._end):
            first, num_rows = self._row, len(rows.values)
            while self._row < first + num_rows and not self._stop.requested():
                self._send_some(rows, self._row - first)
                if self._on_progress is not None and self._last_event_ms is not None:
                    self._on_progress(ReplayProgress(self._row, self._end, self._last_event_ms))
                self._save_when_due()
            if self._stop.requested():
                return

    def _save_when_due(self) -> None:
        if self._row >= self._save_at_row or time.monotonic() >= self._save_at:
            self._producer.settle()
            self._save()
            self._save_at_row = self._row + self._config.save_every_rows
            self._save_at = time.monotonic() + _REPORT_SECONDS

    def _send_some(self, rows: Rows, start: int) -> None:
        """Send rows from `start` on: all of them, or what a pace allows in about a second."""
        producer, refused, first = self._producer, rows.refused, self._row - start
        send, num_partitions = producer.send_raw, producer.num_partitions
        paced, pause_at = self._pace.is_set, time.monotonic() + _REPORT_SECONDS
        left = zip(rows.keys[start:], rows.values[start:], strict=True)
        for at, (key, value) in enumerate(left, start):
            if paced and not self._pace.wait(rows.times_ms[at]):
                break
            if at in refused:
                producer.dead(f"{self._log.name}/{first + at}", value, *refused[at])
            elif key is not None:
                send(key, value)
            else:
                # Nobody's record: any partition will do, the same one each time.
                send(None, value, partition=(first + at) % num_partitions)
            self._row += 1
            if paced and time.monotonic() >= pause_at:
                break
        if self._row > first + start:
            if self._first_event_ms is None:
                self._first_event_ms = rows.times_ms[start]
            self._last_event_ms = rows.times_ms[self._row - first - 1]
            REPLAY_EVENT_TIME.labels(self._log.name).set(self._last_event_ms / 1000)

    def _save(self) -> None:
        """Note how far the broker has confirmed: one row is one record, confirmed in order."""
        confirmed = max(0, self._producer.num_acknowledged - self._sent_before)
        next_row = min(self._first_row + confirmed, self._end)
        self._state = ReplayState(next_row=next_row, flushed=self._state.flushed)
        self._file.save(self._state)
        REPLAY_ROW.labels(self._log.name).set(next_row)

    def _flush_clock(self) -> int:
        after_ms = self._config.flush_after_ms
        if after_ms is None:
            return 0
        limit_ms = int(time.time() * 1000) + _FUTURE_MS
        closing_ms = self._last_time_up_to(limit_ms) + after_ms
        if closing_ms >= limit_ms:
            raise FreshetError(
                "too early to flush",
                detail=f"All rows are sent, but the last is too recent to move clocks {after_ms} ms "
                "beyond it: features refuse heartbeats of the future.",
                hint=f"replay again in {(closing_ms - limit_ms) // 1000 + 1} s: "
                "only the heartbeats are left",
                retriable=True,
            )
        # What becomes due at the first one is emitted when the clock passes it: at the second.
        for heartbeat_ms in (closing_ms, closing_ms + 1):
            self._producer.heartbeat_all(heartbeat_ms)
        self._producer.flush()
        self._state = ReplayState(next_row=self._state.next_row, flushed=True)
        self._file.save(self._state)
        return 2 * self._producer.num_partitions

    def _last_time_up_to(self, limit_ms: int) -> int:
        """The newest event time that moved a clock; 0 where there is none."""
        times_ms = self._log.times_ms(self._begin, self._end)
        return int(times_ms[times_ms <= limit_ms].max(initial=0))


class _Pace:
    """Waits until a row is due."""

    def __init__(self, config: ReplayConfig, stop: StopSignal) -> None:
        self.is_set = config.speed is not None or config.events_per_second is not None
        self._speed = config.speed
        self._rate = config.events_per_second
        self._stop = stop
        self._started: float | None = None
        self._first_ms = 0
        self._num_rows = 0

    def wait(self, event_time_ms: int) -> bool:
        """Whether the row shall be sent, after waiting for its time; False when asked to stop."""
        if self._started is None:
            self._started, self._first_ms = time.monotonic(), event_time_ms
        if self._rate is not None:
            due_seconds = self._num_rows / self._rate
        elif event_time_ms > time.time() * 1000 + _FUTURE_MS:
            due_seconds = 0.0  # a wrong time, by which the rest must not wait
        else:
            due_seconds = (event_time_ms - self._first_ms) / 1000 / (self._speed or 1.0)
        self._num_rows += 1
        ahead_seconds = self._started + due_seconds - time.monotonic()
        if ahead_seconds > 0:
            return not self._stop.wait(ahead_seconds)
        return not self._stop.requested()
