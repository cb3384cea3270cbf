"""Which version is live: one reference, replaced whole."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import msgspec
import structlog

from ingest.runtime.errors import FreshetError
from publisher.serving import metrics
from publisher.serving.config import ServingConfig
from publisher.serving.errors import not_ready
from publisher.serving.version import ServedVersion, load_version
from publisher.snapshots import SnapshotManifest, SnapshotStore
from trainer.export import TaskQuality

_log = structlog.get_logger()


class VersionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """That a version went live, and when by this machine's clock (`loaded_at_ms`)."""

    version: str
    step: int
    positions: dict[int, int]
    watermark_ms: int
    quality: dict[str, TaskQuality]
    loaded_at_ms: int


class Live:
    """Loads versions beside the live one and swaps them in.

    A request takes `version()` once and uses that object to its end.
    """

    def __init__(
        self,
        store: SnapshotStore,
        config: ServingConfig,
        *,
        now_ms: Callable[[], int] | None = None,
    ) -> None:
        self._store = store
        self._config = config
        self._now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        self._version: ServedVersion | None = None
        self._records: deque[VersionRecord] = deque(maxlen=config.version_records)
        self._loading = threading.Lock()
        self.last_failure = ""

    def version(self) -> ServedVersion:
        """The live version.

        Raises:
            RequestError: status 503, there is none yet.
        """
        version = self._version
        if version is None:
            reason = f" The last one failed: {self.last_failure}" if self.last_failure else ""
            raise not_ready(f"No version of {self._store.model_name} is loaded.{reason}")
        return version

    def records(self) -> list[VersionRecord]:
        """Every version that went live, oldest first (the newest `version_records`)."""
        return list(self._records)

    def newest_record(self) -> VersionRecord:
        """The live version's record.

        Raises:
            RequestError: status 503, there is none yet.
        """
        self.version()
        return self._records[-1]

    def load_latest(self) -> None:
        """Load what LATEST points to, if anything.

        Raises:
            FreshetError: it could not be loaded; the live version stays.
        """
        pointer = self._store.latest()
        if pointer is not None:
            self.load(pointer.version, pointer.manifest_sha256)

    def load(self, version: str, manifest_sha256: str | None = None) -> None:
        """Load a version and make it live; nothing happens when it is not newer than the live one.

        Raises:
            FreshetError: it could not be loaded; the live version stays.
        """
        with self._loading:
            live = self._version
            if live is not None and version <= live.manifest.version:
                return
            try:
                with metrics.LOAD_SECONDS.time():
                    loaded = load_version(
                        self._store, version, self._config, manifest_sha256=manifest_sha256
                    )
            except FreshetError as error:
                metrics.LOAD_FAILURES.inc()
                self.last_failure = str(error)
                raise
            self._records.append(_record(loaded.manifest, self._now_ms()))
            self._version = loaded
        self._show(loaded)

    def _show(self, loaded: ServedVersion) -> None:
        manifest = loaded.manifest
        metrics.SWAPS.inc()
        metrics.STEP.set(manifest.step)
        metrics.EVENT_TIMESTAMP.set(manifest.watermark_ms / 1000)
        _log.info("version live", version=manifest.version, num_items=loaded.num_items)


def positions_of(manifest: SnapshotManifest) -> dict[int, int]:
    """Partition of `sequences` -> offset of the first message the version has not finished."""
    return {partition: position.offset for partition, position in manifest.positions.items()}


def _record(manifest: SnapshotManifest, loaded_at_ms: int) -> VersionRecord:
    return VersionRecord(
        version=manifest.version,
        step=manifest.step,
        positions=positions_of(manifest),
        watermark_ms=manifest.watermark_ms,
        quality=manifest.quality,
        loaded_at_ms=loaded_at_ms,
    )
