"""Announcing versions on the `snapshots` topic."""

from __future__ import annotations

import msgspec

from ingest.runtime.errors import BrokerError
from ingest.runtime.kafka import KafkaError, make_producer, read_all
from ingest.runtime.topics import SNAPSHOTS
from publisher.snapshots.manifest import Announcement, decode_announcement

_ACK_SECONDS = 70  # more than the producer itself tries


class Announcer:
    """Writes a model's announcements, each acknowledged before `announce` returns.

    Raises:
        BrokerError: no broker answers.
    """

    def __init__(self, bootstrap: str, model_name: str) -> None:
        self._bootstrap = bootstrap
        self._key = model_name.encode()
        self._producer = make_producer(bootstrap, linger_ms=0)

    def last_announced(self) -> str | None:
        """The version announced last, None when none ever was.

        Raises:
            BrokerError: the topic is missing or cannot be read.
            BadSnapshot: its last record of this model is no announcement.
        """
        own = [r for r in read_all(self._bootstrap, SNAPSHOTS) if r.key == self._key]
        return decode_announcement(own[-1].value).version if own else None

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
