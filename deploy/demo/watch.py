"""Watching a run: how far each service has come, shown live and waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.table import Table

from deploy.demo.client import ServingClient
from deploy.demo.data import LONGEST_WAIT_MS
from deploy.demo.quality import stretch, tasks_of
from deploy.freshness import ServedVersion
from deploy.sequence_log import SequenceLog
from deploy.stack import LocalStack
from ingest.runtime.errors import FreshetError
from ingest.runtime.kafka import TopicReader, partitions_of
from ingest.runtime.topics import EVENTS
from trainer.ne_log import NeLogFollower, StepLine

_REFRESH_SECONDS = 0.5
_PLAIN_EVERY_SECONDS = 10.0
_RECENT_STEPS = 200


@dataclass(kw_only=True)
class Sent:
    """How many events were sent, out of how many; written by the sender, read by the watcher."""

    num_sent: int = 0
    num_events: int = 0


class Watch:
    """Follows the topics, the trainer's log and serving; shows them; waits for conditions."""

    def __init__(self, stack: LocalStack, console: Console, sent: Sent) -> None:
        self._stack = stack
        self._console = console
        self.sent = sent
        self.client = ServingClient(stack.serving_url)
        self.sequences = SequenceLog(stack.bootstrap)
        self._events = TopicReader(
            stack.bootstrap, EVENTS, dict.fromkeys(partitions_of(stack.bootstrap, EVENTS), 0)
        )
        self._steps = NeLogFollower(stack.ne_log)
        self._last_plain = 0.0

    def event_ends(self) -> dict[int, int]:
        """The end of every partition of `events`."""
        return self._events.end_offsets()

    def steps(self) -> list[StepLine]:
        """Every step the trainer has logged."""
        return self._steps.follow()

    def versions(self) -> list[ServedVersion]:
        """Every version served so far.

        Raises:
            FreshetError: serving does not answer.
        """
        return self.client.versions()

    def until(self, what: str, condition: Callable[[], bool], *, timeout_seconds: float) -> None:
        """Show the run until `condition` holds.

        Raises:
            ProcessDied: a service ended.
            FreshetError: the time is over.
        """
        deadline = time.monotonic() + timeout_seconds
        with Live(console=self._console, refresh_per_second=2, transient=True) as live:
            while not condition():
                self._stack.check_alive()
                self.sequences.follow()
                self._show(live, what)
                if time.monotonic() > deadline:
                    raise FreshetError(
                        f"waiting for {what} took more than {timeout_seconds:g} s",
                        hint=f"read the logs in {self._stack.directory / 'logs'}",
                    )
                time.sleep(_REFRESH_SECONDS)

    def until_served(self, *, timeout_seconds: float) -> None:
        """Wait until a served version has learned every event that was sent by now."""
        ends = self.event_ends()

        def served() -> bool:
            account = self.sequences.follow()
            if not account.closed(ends):
                return False
            if not account.num_targets():
                raise FreshetError(
                    "nothing to learn yet",
                    detail="The events sent so far let no token out: they span too little time.",
                    hint=f"send a log of more than {LONGEST_WAIT_MS // 60_000} minutes",
                )
            return any(account.learned_by(version.positions) for version in self.versions())

        self.until("a served version that has learned all", served, timeout_seconds=timeout_seconds)

    def _show(self, live: Live, what: str) -> None:
        steps, versions = self.steps(), self.versions()
        counters = self.sequences.account.counters()
        recent = steps[-_RECENT_STEPS:]
        quality = {task: stretch(recent, task).ne for task in tasks_of(recent)}
        facts = {
            "events sent": f"{self.sent.num_sent:,} of {self.sent.num_events:,}",
            "events in sequences": f"{counters.events - counters.pending:,}",
            "targets trained": f"{steps[-1].total_targets if steps else 0:,}",
            "NE now": "  ".join(f"{task} {ne:.3f}" for task, ne in quality.items() if ne) or "-",
            "version served": versions[-1].version.lstrip("0") if versions else "none yet",
            "freshness": self._freshness(versions),
        }
        if self._console.is_terminal:
            table = Table(title=f"waiting for {what}", title_justify="left", show_header=False)
            for name, value in facts.items():
                table.add_row(name, value)
            live.update(table)
        elif time.monotonic() - self._last_plain > _PLAIN_EVERY_SECONDS:
            self._last_plain = time.monotonic()
            self._console.print(" | ".join(f"{name}: {value}" for name, value in facts.items()))

    def _freshness(self, versions: list[ServedVersion]) -> str:
        """How old the newest sequence was when it was first served, and what waits behind it."""
        if not versions:
            return "-"
        newest = versions[-1]
        written_ms = self.sequences.account.newest_learned_ms(newest.positions)
        behind = self.sequences.account.num_targets_after(newest.positions)
        if written_ms is None:
            return f"{behind:,} targets behind"
        age = (newest.loaded_at_ms - written_ms) / 1000
        return f"{age:.1f} s from sequence to served, {behind:,} targets behind"

    def close(self) -> None:
        """Leave the broker and serving."""
        self.sequences.close()
        self._events.close()
        self.client.close()
