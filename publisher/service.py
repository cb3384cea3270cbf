"""The publisher: hand-overs in, versions out, each pointed to and announced once.

The order of effects is parts, manifest, LATEST, announcement. Whatever a crash interrupts, the
next start completes (`recover`): a version committed but not pointed to is pointed to, one pointed
to but not announced is announced.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog
from safetensors.torch import save

from ingest.runtime.errors import ConfigError, FreshetError
from ingest.runtime.lock import lock_directory
from ingest.runtime.service import StopSignal
from publisher import metrics
from publisher.check import ExportRefused, check_export
from publisher.snapshots import (
    DENSE,
    TABLE,
    Announcement,
    BadSnapshot,
    SnapshotManifest,
    SnapshotStore,
    version_of,
)
from trainer.export import BadExport, Export, list_exports, read_export

_RETRY_SECONDS = 2.0
_log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class PublisherConfig:
    """Where hand-overs come from and where versions go.

    Raises:
        ConfigError: a value that cannot work; the message names the field.
    """

    exports: Path
    store: Path
    model_name: str = "freshet"
    keep_versions: int = 5
    poll_seconds: float = 0.5

    def __post_init__(self) -> None:
        if self.keep_versions < 2:
            # A server may still be loading the version before the newest.
            raise ConfigError(
                "keep_versions refused", detail=f"It is {self.keep_versions}, least 2."
            )
        if not 0 < self.poll_seconds <= 60:
            raise ConfigError(
                "poll_seconds refused", detail=f"It is {self.poll_seconds}, not in (0, 60]."
            )


class Announces(Protocol):
    """What the publisher needs of the `snapshots` topic."""

    def last_announced(self) -> str | None:
        """The version announced last."""

    def announce(self, announcement: Announcement) -> None:
        """Write one announcement and have it acknowledged."""


class Publisher:
    """Turns the newest hand-over that can be served into the version that is served.

    Raises:
        ConfigError: another publisher works on the same store and model.
    """

    def __init__(self, config: PublisherConfig, announcer: Announces) -> None:
        self._config = config
        self._announcer = announcer
        self._store = SnapshotStore(config.store, config.model_name)
        self._refused: set[str] = set()
        self._unannounced: str | None = None
        self._lock = lock_directory(
            self._store.directory,
            hint="stop the other publisher, or give this one another store or model_name",
        )

    def close(self) -> None:
        """Let another publisher have the store."""
        self._lock.close()

    def recover(self) -> None:
        """Complete what an earlier run left undone.

        Raises:
            BadSnapshot: the newest version or the pointer is damaged.
            BrokerError: the topic cannot be read or written.
        """
        pointer = self._store.latest()
        versions = self._store.versions()
        if versions and (pointer is None or versions[-1] > pointer.version):
            self._store.verify(versions[-1])
            pointer = self._store.point(versions[-1])
        if pointer is not None:
            _show(self._store.manifest(pointer.version), len(versions))
            if self._announcer.last_announced() != pointer.version:
                self._unannounced = pointer.version
                self._announce_pending()

    def advance(self) -> str | None:
        """Publish the newest hand-over that is newer than LATEST and sane; its version, or None.

        Raises:
            BrokerError: the announcement failed; the next call repeats it.
        """
        self._announce_pending()
        pointer = self._store.latest()
        parent = pointer.version if pointer else None
        found = list_exports(self._config.exports)
        self._refuse_older(found, parent)
        newer = [path for path in found if path.name > (parent or "")]
        waiting = [path for path in newer if path.name not in self._refused]
        for path in reversed(waiting):
            if self._publish(path, parent):
                metrics.SUPERSEDED.inc(waiting.index(path))
                return path.name
        return None

    def _refuse_older(self, found: list[Path], pointed_to: str | None) -> None:
        """A newest hand-over behind LATEST means another run writes here, or one that went back."""
        if not pointed_to or not found or found[-1].name >= pointed_to:
            return
        if found[-1].name not in self._refused:
            detail = f"LATEST is {pointed_to}. A run begun anew needs another store or model_name."
            self._refuse(
                found[-1], ExportRefused("older", "older than what is served", detail=detail)
            )

    def _publish(self, path: Path, parent: str | None) -> bool:
        started = time.perf_counter()
        try:
            export, dense, table = read_export(path)
            if version_of(export.step) != path.name:
                raise ExportRefused("config", "export of another step", detail=f"{export.step}.")
            check_export(export, dense, table)
        except (BadExport, ExportRefused) as error:
            if path.exists():
                self._refuse(path, error)
            return False
        manifest = self._store.write(
            _manifest(export, parent), {DENSE: save(dense), TABLE: save(table)}
        )
        self._store.point(manifest.version)
        self._unannounced = manifest.version
        metrics.PUBLISHED.inc()
        dropped = self._store.drop_old(keep=self._config.keep_versions)
        metrics.DROPPED.inc(len(dropped))
        _show(manifest, len(self._store.versions()))
        self._announce_pending()
        metrics.PUBLISH_SECONDS.observe(time.perf_counter() - started)
        _log.info(
            "published",
            version=manifest.version,
            watermark_ms=manifest.watermark_ms,
            seconds=round(time.perf_counter() - started, 3),
        )
        return True

    def _refuse(self, path: Path, error: Exception) -> None:
        reason = error.reason if isinstance(error, ExportRefused) else "unreadable"
        self._refused.add(path.name)
        metrics.REFUSED.labels(reason).inc()
        _log.error("hand-over refused", export=str(path), reason=reason, error=str(error))

    def _announce_pending(self) -> None:
        if self._unannounced is None:
            return
        version = self._unannounced
        pointer = self._store.latest()
        if pointer is None or pointer.version != version:
            raise BadSnapshot("pointer moved by somebody else", detail=f"Expected {version}.")
        manifest = self._store.manifest(version, expected_sha256=pointer.manifest_sha256)
        self._announcer.announce(
            Announcement(
                version=version,
                uri=self._store.path(version).absolute().as_uri(),
                manifest_sha256=pointer.manifest_sha256,
                step=manifest.step,
                watermark_ms=manifest.watermark_ms,
            )
        )
        self._unannounced = None
        metrics.ANNOUNCED.inc()


def serve(publisher: Publisher, stop: StopSignal, *, poll_seconds: float) -> None:
    """Recover, then publish until asked to stop; the publication in hand is finished first.

    Raises:
        FreshetError: what a retry cannot help.
    """
    publisher.recover()
    while not stop.requested():
        try:
            published = publisher.advance()
        except FreshetError as error:
            if not error.retriable:
                raise
            _log.warning(error.primary, detail=error.detail, hint=error.hint)
            stop.wait(_RETRY_SECONDS)
            continue
        if published is None:
            stop.wait(poll_seconds)


def _manifest(export: Export, parent: str | None) -> SnapshotManifest:
    return SnapshotManifest(
        version=version_of(export.step),
        parent=parent,
        files=(),
        step=export.step,
        num_targets=export.num_targets,
        positions=export.positions,
        watermark_ms=export.watermark_ms,
        quality=export.quality,
        model=export.model,
        config=export.config,
        schema=export.schema,
        code_revision=export.code_revision,
        exported_at_ms=export.exported_at_ms,
        created_at_ms=time.time_ns() // 1_000_000,
    )


def _show(manifest: SnapshotManifest, num_versions: int) -> None:
    metrics.STEP.set(manifest.step)
    metrics.EVENT_TIMESTAMP.set(manifest.watermark_ms / 1000)
    metrics.SNAPSHOT_BYTES.set(sum(file.size_bytes for file in manifest.files))
    metrics.VERSIONS.set(num_versions)
