"""The log a demo run is made of, and what is known about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from deploy.broker import ROOT
from deploy.demo.options import DemoOptions
from features.config import FeaturesConfig
from ingest.adapters.catalog import open_log
from ingest.adapters.log import EventLog
from ingest.adapters.synthetic import NAME, SyntheticConfig, SyntheticTruth, generate
from ingest.events import Event, InvalidEvent, decode_record
from ingest.producer import EventProducer
from ingest.replay import OnProgress, ReplayConfig, replay
from ingest.runtime.errors import ConfigError
from ingest.runtime.service import StopSignal

# Tasks are chosen by samples from all over the log: some actions begin late in it.
_NUM_SAMPLES = 25
_SAMPLE_ROWS = 2_000
# A task is worth learning when neither of its classes is rarer than this among the events.
_LEAST_SHARE = 0.005
# Task -> the action that makes it; the first that a log has decides the order of recommendations.
_TASK_ACTIONS = {"click": "click", "like": "like", "purchase": "purchase", "long_watch": "watch"}
_SYNTHETIC_EVENTS = 100_000

# A replay runs event time thousands of times faster than the clock on the wall, so waiting longer
# costs no freshness here, and more targets share one encoding of their user's history.
FEATURES = FeaturesConfig(emit_after_ms=1_800_000)
# When the clock has moved this far past an event, it is emitted.
LONGEST_WAIT_MS = FEATURES.emit_after_ms + FEATURES.join_window_ms + FEATURES.bound_ms


class DemoLog:
    """An event log with the tasks it can teach."""

    def __init__(self, log: EventLog, options: DemoOptions, truth: SyntheticTruth | None) -> None:
        self._log = log
        self._truth = truth
        self._state = options.directory / "replay"
        self.name = Path(options.data).stem
        self.num_events = min(options.events, len(log)) if options.events else len(log)
        if self.num_events < 2:
            raise ConfigError("too few events", detail=f"{self.num_events} in {log.name}.")
        actions = self._actions()
        self.tasks = choose_tasks(actions)
        if not self.tasks:
            raise ConfigError(
                "the log teaches no task",
                detail=f"Its actions are {dict(actions)}; a task needs some events that are "
                f"positive and some that are not, of {', '.join(_TASK_ACTIONS.values())}.",
                hint="choose another log",
            )
        self.num_dead_at_door = 0

    @property
    def primary_action(self) -> str:
        """The action that recommendations are sorted for."""
        return _TASK_ACTIONS[self.tasks[0]]

    @property
    def settings(self) -> dict[str, str]:
        """Environment of the services."""
        return {
            "FRESHET_TRAINER_TASKS": ",".join(self.tasks),
            "FRESHET_FEATURES_EMIT_AFTER_MS": str(FEATURES.emit_after_ms),
            # A demo is over in a minute or two: publish often enough to see versions change.
            "FRESHET_TRAINER_EXPORT_EVERY_SECONDS": "2",
        }

    def send(
        self,
        producer: EventProducer,
        start: int,
        stop: int,
        *,
        speed: float | None = None,
        events_per_second: float | None = None,
        on_progress: OnProgress | None = None,
        halt: StopSignal | None = None,
    ) -> None:
        """Replay rows start..stop until asked to stop; behind the last row heartbeats let out what still waits."""
        summary = replay(
            self._log,
            producer,
            ReplayConfig(
                state_directory=self._state,
                skip=start,
                limit=stop - start,
                speed=speed,
                events_per_second=events_per_second,
                flush_after_ms=(LONGEST_WAIT_MS + 1 if stop == self.num_events else None),
            ),
            on_progress=on_progress,
            stop=halt,
        )
        self.num_dead_at_door += summary.num_dead

    def ne_floor(self) -> dict[str, float]:
        """The least NE any model can reach over the last fifth, where it is known."""
        return {} if self._truth is None else {"click": self._truth.ne_floor(0.2)}

    def expected(self) -> dict[str, int] | None:
        """What the generator planted, in the summary's words; None for a log of the real world."""
        truth = self._truth
        if truth is None or self.num_events < len(self._log):
            return None
        return {
            "events_in": truth.num_records,
            "targets": truth.num_impressions,
            "tokens_folded": truth.num_folded,
            "duplicates": truth.faults.duplicates,
            "late": truth.faults.late,
            "dead": truth.faults.malformed,
        }

    def _actions(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        step = max(1, self.num_events // _NUM_SAMPLES)
        for start in range(0, self.num_events, step):
            for rows in self._log.read(start, min(start + _SAMPLE_ROWS, self.num_events)):
                counts.update(_actions_of(rows.values))
        return counts


def _actions_of(values: list[bytes]) -> Iterator[str]:
    for value in values:
        try:
            record = decode_record(value)
        except InvalidEvent:
            continue  # it will be a dead letter; here only actions are counted
        if isinstance(record, Event):
            yield record.action


def open_demo_log(options: DemoOptions) -> DemoLog:
    """Open `options.data`, or make the synthetic log with planted faults.

    Raises:
        FreshetError: no such data set or file, or it cannot be read.
    """
    if options.data == NAME:
        # About every second event is an impression; the rest follows from them.
        config = SyntheticConfig(
            num_impressions=max(2, (options.events or _SYNTHETIC_EVENTS) // 2),
            malformed=0.05,
            duplicates=0.05,
            late=0.02,
        )
        log, truth = generate(config)
        return DemoLog(log, replace(options, events=0), truth)
    return DemoLog(open_log(options.data, ROOT / "build" / "datasets"), options, None)


def choose_tasks(actions: Mapping[str, int]) -> tuple[str, ...]:
    """The tasks of which a log shows both classes, in the order of `_TASK_ACTIONS`.

    Example:
        >>> choose_tasks({"rate": 45, "like": 55})
        ('like',)
        >>> choose_tasks({"watch": 90, "click": 10})
        ('click', 'long_watch')
    """
    total = sum(actions.values())
    shares = {
        task: actions.get(action, 0) / max(total, 1) for task, action in _TASK_ACTIONS.items()
    }
    chosen = [t for t, share in shares.items() if _LEAST_SHARE <= share <= 1 - _LEAST_SHARE]
    return tuple(chosen)


def summary_differs(expected: Mapping[str, int], summary: Mapping[str, Any]) -> list[str]:
    """Every planted count that was not found again."""
    return [
        f"{name}: planted {count}, found {summary[name]}"
        for name, count in expected.items()
        if summary[name] != count
    ]
