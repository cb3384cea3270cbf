"""Announcing versions on the `snapshots` topic."""

from __future__ import annotations

import msgspec
import structlog

from ingest.runtime.errors import BrokerError
from ingest.runtime.kafka import KafkaError, make_producer, read_all
from ingest.runtime.topics import SNAPSHOTS
from publisher import metrics
from publisher.snapshots.manifest import Announcement, BadSnapshot, decode_announcement

_DELIVERY_SECONDS = 60
_ACK_SECONDS = _DELIVERY_SECONDS + 10  # the producer gives up first
_log = structlog.get_logger()


class Announcer:
    """Writes a model's announcements, each acknowledged before `announce` returns.

    Raises:
        BrokerError: no broker answers.
    """

    def __init__(self, bootstrap: str, model_name: str) -> None:
        self._bootstrap = bootstrap
        self._key = model_name.encode()
        self._producer = make_producer(
            bootstrap, linger_ms=0, delivery_timeout_seconds=_DELIVERY_SECONDS
        )

    def last_announced(self) -> str | None:
        """The version announced last, None when none ever was.

        A record of this model that is no announcement is counted and passed over.

        Raises:
            BrokerError: the topic is missing or cannot be read.
        """
        own = [r for r in read_all(self._bootstrap, SNAPSHOTS) if r.key == self._key]
        for record in reversed(own):
            try:
                return decode_announcement(record.value).version
            except BadSnapshot as error:
                metrics.BAD_ANNOUNCEMENTS.inc()
                _log.error("announcement skipped", offset=record.offset, error=str(error))
        return None

    def announce(self, announcement: Announcement) -> None:
        """Write one announcement.

        Raises:
            BrokerError: it was not acknowledged (retriable).
        """
        value = msgspec.json.encode(announcement)
        try:
            self._producer.send(SNAPSHOTS, key=self._key, value=value).get(timeout=_ACK_SECONDS)
        except KafkaError as error:
            raise BrokerError(
                "announcing failed", detail=f"{announcement.version}: {error!r}.", retriable=True
            ) from error

    def close(self) -> None:
        """Leave the broker."""
        self._producer.close()
