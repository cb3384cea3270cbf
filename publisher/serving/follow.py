"""The two topics a server follows, each in a thread of its own: users' states and versions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import structlog

from ingest.runtime.errors import FreshetError
from ingest.runtime.kafka import Record, TopicReader, partitions_of
from ingest.runtime.service import StopSignal
from ingest.runtime.topics import SEQUENCES, SNAPSHOTS
from publisher.serving import metrics
from publisher.serving.live import Live
from publisher.serving.users import UserStates
from publisher.snapshots import Announcement, BadSnapshot
from publisher.snapshots.manifest import decode_announcement

_POLL_SECONDS = 0.2
_RETRY_SECONDS = 2.0
_log = structlog.get_logger()


class UserFollower:
    """Applies `sequences` from its first record on."""

    def __init__(self, bootstrap: str, users: UserStates) -> None:
        self._reader = read_from_beginning(bootstrap, SEQUENCES)
        self._users = users
        self._goal = self._reader.end_offsets()

    @property
    def caught_up(self) -> bool:
        """Whether everything that was in the log at the start is applied."""
        return not self._goal

    def step(self) -> None:
        """Apply what came in a short while."""
        self._users.apply(self._reader.poll(_POLL_SECONDS))
        if self._goal:
            at = self._reader.next_offsets()
            self._goal = {p: end for p, end in self._goal.items() if at[p] < end}

    def close(self) -> None:
        """Leave the broker."""
        self._reader.close()


class VersionFollower:
    """Loads what LATEST points to, then what is announced; of several the newest only."""

    def __init__(self, bootstrap: str, live: Live, model_name: str) -> None:
        self._reader = read_from_beginning(bootstrap, SNAPSHOTS)
        self._live = live
        self._key = model_name.encode()
        self._wanted: Announcement | None = None
        self._retry_at_seconds = 0.0
        self._try(live.load_latest)

    def step(self) -> None:
        """Load what was announced in a short while; a load that may work later is repeated."""
        announced = self._newest(self._reader.poll(_POLL_SECONDS))
        if announced is not None:
            self._wanted, self._retry_at_seconds = announced, 0.0
        wanted = self._wanted
        if wanted is None or time.monotonic() < self._retry_at_seconds:
            return
        self._retry_at_seconds = time.monotonic() + _RETRY_SECONDS
        if self._try(lambda: self._live.load(wanted.version, wanted.manifest_sha256)):
            self._wanted = None

    def close(self) -> None:
        """Leave the broker."""
        self._reader.close()

    def _newest(self, records: Iterable[Record]) -> Announcement | None:
        found = None
        for record in records:
            if record.key != self._key:
                continue
            try:
                found = decode_announcement(record.value)
            except BadSnapshot as error:
                metrics.BAD_ANNOUNCEMENTS.inc()
                _log.error("announcement skipped", offset=record.offset, error=str(error))
        return found

    def _try(self, load: Callable[[], None]) -> bool:
        """Whether the matter is settled: loaded, or it can never be."""
        try:
            load()
        except FreshetError as error:
            _log.error("version not loaded", error=str(error), retriable=error.retriable)
            return not error.retriable
        return True


def follow(follower: UserFollower | VersionFollower, stop: StopSignal) -> None:
    """Step a follower until asked to stop; retriable errors are logged and waited out.

    Raises:
        FreshetError: what a retry cannot help.
    """
    try:
        while not stop.requested():
            try:
                follower.step()
            except FreshetError as error:
                if not error.retriable:
                    raise
                _log.warning(error.primary, detail=error.detail, hint=error.hint)
                stop.wait(_RETRY_SECONDS)
    finally:
        follower.close()


def read_from_beginning(bootstrap: str, topic: str) -> TopicReader:
    """A reader of all partitions, from the first record still there.

    Raises:
        BrokerError: no broker answers, or there is no such topic.
    """
    partitions = partitions_of(bootstrap, topic)
    reader = TopicReader(bootstrap, topic, dict.fromkeys(partitions, 0))
    begins = reader.beginning_offsets()
    if not any(begins.values()):
        return reader
    reader.close()
    return TopicReader(bootstrap, topic, begins)
