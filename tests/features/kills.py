"""A broker and a job that are killed with SIGKILL at random moments while events come in."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Literal

import psutil

from deploy.broker import Broker, start_broker
from deploy.processes import Child
from features.config import FeaturesConfig
from ingest.runtime.kafka import create_topics
from tests.features.faulty import feed
from tests.features.job_runs import Follower, Written, committed, expected, start_job

Victim = Literal["job", "jvm", "broker"]

# Starts are most of a run of kills, and the optimising compiler is most of a start.
QUICK_START = "-XX:TieredStopAtLevel=1"
_START_SECONDS = 240


@dataclass(frozen=True, kw_only=True)
class Kill:
    """Who dies, and when: so long after the last start, or after the first commit that followed."""

    victim: Victim
    after_commit: bool
    seconds: float

    def __str__(self) -> str:
        moment = "commit" if self.after_commit else "start"
        return f"{self.victim} {self.seconds:.1f} s after its {moment}"


def planned_kills(seed: int, number: int, longest_seconds: float) -> list[Kill]:
    """Random kills of the job's tree, its JVM alone, or the broker; half of them during a start."""
    random = Random(seed)
    victims: list[Victim] = ["job", "jvm", "broker"]
    return [
        Kill(
            victim=random.choice(victims),
            after_commit=random.random() < 0.5,
            seconds=random.uniform(0, longest_seconds),
        )
        for _ in range(number)
    ]


class KilledRun:
    """A run of the job below one directory; a context manager that leaves nothing behind.

    A killed broker stays away for `away_seconds`.
    """

    def __init__(
        self,
        directory: Path,
        config: FeaturesConfig,
        num_partitions: int,
        away_seconds: float = 0.0,
    ) -> None:
        self.config = config
        self._away_seconds = away_seconds
        self._directory = directory
        self._num_partitions = num_partitions
        self._broker: Broker | None = None
        self._job: Child | None = None
        self._num_feeds = 0
        self._num_committed = 0

    @property
    def bootstrap(self) -> str:
        assert self._broker is not None
        return self._broker.bootstrap

    def __enter__(self) -> KilledRun:
        self._broker = start_broker(self._directory / "broker")
        create_topics(self.bootstrap, self._num_partitions)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for child in (self._job, self._broker.child if self._broker else None):
            if child is not None:
                child.kill()

    def start_job(self) -> None:
        directory = self._directory / "job"
        self._job = start_job(self.bootstrap, directory, self.config, jvm_args=QUICK_START)

    def feed(self, num_events: int) -> None:
        """Append the next events of a stream with every fault the room knows."""
        feed(self.bootstrap, self._num_partitions, self._num_feeds, num_events)
        self._num_feeds += 1

    def strike(self, kill: Kill) -> None:
        """Kill at the moment, and start again what died, and the job where it gave up."""
        if kill.after_commit:
            self._await_commit()
        time.sleep(kill.seconds)
        if kill.victim == "broker":
            assert self._broker is not None
            port = int(self.bootstrap.rpartition(":")[2])
            self._broker.child.kill()
            time.sleep(self._away_seconds)
            self._broker = start_broker(self._directory / "broker", port)
            self._revive()
            return
        assert self._job is not None
        if kill.victim == "jvm" and self._kill_jvm():
            self._job.wait(timeout_seconds=60)
        self._job.kill()
        self.start_job()

    def finish(self, timeout_seconds: float) -> tuple[Written, Written]:
        """Let the job catch up undisturbed and end it: what it had to write, and what it wrote."""
        follower = Follower(self.bootstrap)
        deadline = time.monotonic() + timeout_seconds
        while not follower.caught_up():
            assert time.monotonic() < deadline, f"{follower.found}: {self._tail()}"
            self._revive()
        follower.close()
        assert self._job is not None
        self._job.stop(grace_seconds=90)
        return expected(self.bootstrap, self.config), committed(self.bootstrap)

    def _await_commit(self) -> None:
        """Wait until more is committed than ever before."""
        follower = Follower(self.bootstrap)
        deadline = time.monotonic() + _START_SECONDS
        while sum(follower.found.values()) <= self._num_committed:
            assert time.monotonic() < deadline, f"nothing new is committed: {self._tail()}"
            follower.caught_up()
            self._revive()
        self._num_committed = sum(follower.found.values())
        follower.close()

    def _revive(self) -> None:
        """Start the job when it gave up: a service's supervisor does the same."""
        assert self._job is not None
        if self._job.returncode is not None:
            self.start_job()

    def _kill_jvm(self) -> bool:
        """Kill only Flink's JVM; False while there is none."""
        assert self._job is not None
        try:
            children = psutil.Process(self._job.pid).children()
            jvm = next(child for child in children if child.name() == "java")
            jvm.kill()
        except (psutil.NoSuchProcess, StopIteration):
            return False
        return True

    def _tail(self) -> str:
        return self._job.log_tail() if self._job is not None else ""
