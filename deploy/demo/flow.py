"""The demo from start to end: start, replay, live tail, recommendations, parity, summary."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from deploy.conservation import Audit
from deploy.demo.data import DemoLog, open_demo_log, summary_differs
from deploy.demo.options import DemoOptions
from deploy.demo.parity import compare_scores
from deploy.demo.plots import VersionFreshness, plot_freshness, plot_ne
from deploy.demo.quality import curve, ne_summary, tasks_of
from deploy.demo.report import conservation_summary, render, save_page
from deploy.demo.taste import before_and_after
from deploy.demo.watch import Sent, Watch
from deploy.freshness import LearnedEvent, first_served_ms
from deploy.stack import LocalStack, StackConfig, scrape
from ingest.producer import EventProducer
from ingest.replay import ReplayProgress
from ingest.runtime.errors import ConfigError
from ingest.runtime.kafka import TopicReader, read_all
from ingest.runtime.service import StopSignal
from ingest.runtime.topics import EVENTS, EVENTS_DEAD, EVENTS_LATE, SNAPSHOTS
from trainer.ne_log import StepLine

_DRAIN_SECONDS = 1800.0
_SETTLE_SECONDS = 180.0
_NUM_PARITY_USERS = 20
_MARKER = ".freshet-demo"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the run measured on the way."""

    events_per_second: float
    tokens_per_second: float
    tail_starts: dict[int, int]
    seconds: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What the log taught, before anything else is sent.

    `ages_seconds` from arrival to served of the tail's events, `served_ms` when that was.
    """

    steps: list[StepLine]
    ages_seconds: Floats
    served_ms: Floats


def run_demo(options: DemoOptions, console: Console) -> dict[str, Any]:
    """Run the demo, write its files below `options.directory` and return the summary.

    Raises:
        FreshetError: a service ended, or something took far too long; nothing is left running.
    """
    started = time.monotonic()
    log = open_demo_log(options)
    _claim(options.directory)
    console.print(f"{log.name}: {log.num_events:,} events; tasks {', '.join(log.tasks)}")
    config = StackConfig(directory=options.directory, settings=log.settings)
    with LocalStack(config) as stack:
        _start(stack, console)
        ready = time.monotonic()
        demo = _Demo(options, stack, log, console)
        try:
            measured = demo.replay_all()
            learned = demo.learned(measured.tail_starts)
            summary = demo.conclude(measured, learned)
            summary["seconds"] |= {"start": ready - started, "total": time.monotonic() - started}
            path = options.directory / "summary.json"
            path.write_text(json.dumps(summary, indent=2) + "\n")
            demo.draw(learned)
        finally:
            demo.watch.close()
    save_page(summary, options.directory / "summary.html")
    render(summary, console)
    console.print(f"summary.json, summary.html, ne.png, freshness.png: {options.directory}")
    return summary


def _claim(directory: Path) -> None:
    """Wipe what an earlier demo left in `directory`, and nothing else."""
    marker = directory / _MARKER
    if directory.exists():
        if not marker.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise ConfigError(
                "directory is not a demo's",
                detail=f"{directory} holds something else; a demo wipes its directory first.",
                hint="choose a new or empty one",
            )
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    marker.touch()


def _start(stack: LocalStack, console: Console) -> None:
    with console.status("starting Kafka"):
        stack.start_broker()
    services = stack.services()
    for service in services:
        stack.start(service)
    for service in services:
        with console.status(f"waiting for {service.name}"):
            stack.await_ready(service)
    console.print(f"all services are up; serving answers at {stack.serving_url}")


class _Demo:
    """One run against a started stack."""

    def __init__(
        self, options: DemoOptions, stack: LocalStack, log: DemoLog, console: Console
    ) -> None:
        self.options = options
        self.stack = stack
        self.log = log
        self.sent = Sent(num_events=log.num_events)
        self.watch = Watch(stack, console, self.sent)

    def replay_all(self) -> Measured:
        """Replay the head as told, then the tail live at half of the capacity just measured."""
        num_tail = max(1, round(self.log.num_events * self.options.tail))
        num_head = self.log.num_events - num_tail
        start = time.monotonic()
        self._send(0, num_head, speed=self.options.speed_up())
        self.watch.until_served(timeout_seconds=_DRAIN_SECONDS)
        head_seconds = time.monotonic() - start
        capacity = num_head / head_seconds
        tail_starts = self.watch.event_ends()
        start = time.monotonic()
        self._send(num_head, self.log.num_events, events_per_second=capacity / 2)
        self.watch.until_served(timeout_seconds=_SETTLE_SECONDS)
        trainer = scrape(self.stack.trainer().metrics_url)
        return Measured(
            events_per_second=capacity,
            tokens_per_second=trainer["freshet_trainer_tokens_total"]
            / trainer["freshet_trainer_step_seconds_sum"],
            tail_starts=tail_starts,
            seconds={"head": head_seconds, "tail": time.monotonic() - start},
        )

    def _send(
        self,
        start: int,
        stop: int,
        *,
        speed: float | None = None,
        events_per_second: float | None = None,
    ) -> None:
        """Send rows start..stop beside the watcher; an error of the sender ends the run."""

        def note(progress: ReplayProgress) -> None:
            self.sent.num_sent = progress.row

        halt = StopSignal()

        def send() -> None:
            with EventProducer(self.stack.bootstrap) as producer:
                self.log.send(
                    producer, start, stop,
                    speed=speed, events_per_second=events_per_second,
                    on_progress=note, halt=halt,
                )  # fmt: skip

        with ThreadPoolExecutor(1, "replay") as pool:
            sending = pool.submit(send)
            try:
                self.watch.until("the replay", sending.done, timeout_seconds=float("inf"))
                sending.result()
            finally:
                halt.request()  # the pool waits for its thread, whatever ended the watch

    def conclude(self, measured: Measured, learned: Learned) -> dict[str, Any]:
        """Everything that is asked of the run once all of it is served."""
        ages = learned.ages_seconds
        conservation = conservation_summary(self._audit())
        expected = self.log.expected()
        if expected is not None:
            conservation["planted_differs"] = summary_differs(expected, conservation)
        recommendations = before_and_after(
            self.watch, self.stack.bootstrap, self.log.primary_action
        )
        return {
            "data": self.log.name,
            **conservation,
            "events_per_second": measured.events_per_second,
            "tokens_per_second": measured.tokens_per_second,
            **ne_summary(learned.steps),
            "ne_base": 1.0,
            "ne_floor": self.log.ne_floor(),
            "freshness_seconds": {
                "p50": float(np.percentile(ages, 50)) if len(ages) else None,
                "p99": float(np.percentile(ages, 99)) if len(ages) else None,
                "num_events": len(ages),
            },
            "versions_published": len(read_all(self.stack.bootstrap, SNAPSHOTS)),
            "versions_served": len(self.watch.versions()),
            **compare_scores(self.watch.client, self.stack.snapshots, self._newest_users()),
            "recommendations": recommendations,
            "seconds": dict(measured.seconds),
        }

    def _newest_users(self) -> list[int]:
        users = dict.fromkeys(reversed(self.watch.sequences.account.recent_users))
        return list(users)[:_NUM_PARITY_USERS]

    def draw(self, learned: Learned) -> None:
        """Draw NE over the stream and the freshness of every version."""
        curves = {task: curve(learned.steps, task) for task in tasks_of(learned.steps)}
        plot_ne(curves, self.options.directory / "ne.png", self.log.ne_floor())
        ages, served = learned.ages_seconds, learned.served_ms
        names = {version.loaded_at_ms: version.version for version in self.watch.versions()}
        bars = [
            VersionFreshness(
                version=names[int(at)],
                p50_seconds=float(np.median(ages[served == at])),
                max_seconds=float(ages[served == at].max()),
            )
            for at in np.unique(served)
        ]
        plot_freshness(bars, self.options.directory / "freshness.png")

    def learned(self, tail_starts: dict[int, int]) -> Learned:
        """The steps so far, and how fresh every served event of the tail was."""
        arrivals = _arrivals(self.stack.bootstrap, tail_starts)
        events = [
            LearnedEvent(
                arrival_ms=arrivals[partition, offset], partition=partition, message_offset=message
            )
            for partition, offset, message in self.watch.sequences.account.opened_since(tail_starts)
        ]
        served = first_served_ms(events, self.watch.versions())
        ages = (served - np.asarray([event.arrival_ms for event in events])) / 1000
        known = ~np.isnan(ages)
        # A copy: the watcher's list grows with what is sent from here on.
        steps = list(self.watch.steps())
        return Learned(steps=steps, ages_seconds=ages[known], served_ms=served[known])

    def _audit(self) -> Audit:
        account = self.watch.sequences.follow()
        steps = self.watch.steps()
        return Audit(
            counters=account.counters(),
            events_sent=self.log.num_events,
            events_in_topic=sum(self.watch.event_ends().values()),
            targets_in_topic=account.num_targets(),
            distinct_targets=account.num_distinct_targets(),
            corrections_in_topic=account.num_corrections(),
            distinct_corrections=account.num_distinct_corrections(),
            targets_trained=steps[-1].total_targets if steps else 0,
            corrections_trained=steps[-1].total_corrections if steps else 0,
            late_in_topic=len(read_all(self.stack.bootstrap, EVENTS_LATE)),
            dead_in_topic=len(read_all(self.stack.bootstrap, EVENTS_DEAD)),
            dead_at_door=self.log.num_dead_at_door,
        )


def _arrivals(bootstrap: str, starts: dict[int, int]) -> dict[tuple[int, int], int]:
    """(partition, offset) -> broker's time of arrival, of every event from `starts` on."""
    reader = TopicReader(bootstrap, EVENTS, starts)
    arrivals: dict[tuple[int, int], int] = {}
    try:
        while not reader.drained():
            for record in reader.poll(0.5):
                arrivals[record.partition, record.offset] = record.timestamp_ms
    finally:
        reader.close()
    return arrivals
