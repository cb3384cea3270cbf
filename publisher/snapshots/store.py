"""A directory of versions: commit by manifest, one pointer, verified reads, bounded retention."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ingest.runtime.disk import sync
from ingest.runtime.errors import ConfigError
from publisher.snapshots.disk import write_durably
from publisher.snapshots.manifest import (
    BadSnapshot,
    SnapshotFile,
    SnapshotManifest,
    decode_manifest,
    encode_manifest,
)

DENSE = "dense.safetensors"
TABLE = "table.safetensors"
_MANIFEST = "manifest.json"
_MANIFEST_CHECK = "manifest.json.sha256"
_LATEST = "LATEST"
_MEDIA_TYPES = {".safetensors": "application/vnd.safetensors"}
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class Pointer(msgspec.Struct, frozen=True, kw_only=True):
    """The content of LATEST: the version to serve and the exact bytes of its manifest."""

    version: str
    manifest_sha256: str


class SnapshotStore:
    """The versions of one model below a local directory.

    One writer at a time; any number of readers, who see a version only once it is complete.

    Raises:
        ConfigError: the model's name cannot be a directory.
    """

    def __init__(self, root: Path, model_name: str) -> None:
        if not _NAME.fullmatch(model_name):
            raise ConfigError(
                "model_name refused",
                detail=f"It is {model_name!r}; wanted is {_NAME.pattern}.",
            )
        self.model_name = model_name
        self.directory = root / model_name

    def path(self, version: str) -> Path:
        """The version's directory."""
        return self.directory / version

    def write(self, manifest: SnapshotManifest, parts: Mapping[str, bytes]) -> SnapshotManifest:
        """Write a version and return its manifest, `files` filled in.

        A committed version of that name stays as it is; an incomplete one is written anew.
        """
        if manifest.version in self.versions():
            return self.manifest(manifest.version)
        target = self.path(manifest.version)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name, data in parts.items():
            write_durably(target / name, data)
        files = tuple(_describe(name, data) for name, data in parts.items())
        complete = msgspec.structs.replace(manifest, files=files)
        raw = encode_manifest(complete)
        write_durably(target / _MANIFEST_CHECK, f"{_sha256(raw)}  {_MANIFEST}\n".encode())
        write_durably(target / _MANIFEST, raw)
        sync(self.directory)
        return complete

    def versions(self) -> list[str]:
        """Committed versions, oldest first."""
        if not self.directory.exists():
            return []
        found = (p.name for p in self.directory.iterdir() if p.name.isdigit())
        return sorted(name for name in found if (self.path(name) / _MANIFEST).exists())

    def point(self, version: str) -> Pointer:
        """Make `version` the one to serve.

        Raises:
            BadSnapshot: it is not committed or its manifest is damaged.
        """
        raw = self._manifest_bytes(version)
        pointer = Pointer(version=version, manifest_sha256=_sha256(raw))
        write_durably(self.directory / _LATEST, msgspec.json.encode(pointer) + b"\n")
        return pointer

    def latest(self) -> Pointer | None:
        """What LATEST points to; None before the first publication.

        Raises:
            BadSnapshot: the pointer is damaged.
        """
        path = self.directory / _LATEST
        try:
            return msgspec.json.decode(path.read_bytes(), type=Pointer)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadSnapshot(
                "pointer not readable",
                detail=f"{path}: {error}.",
                hint="remove it; the publisher points to the newest version again",
            ) from error

    def manifest(self, version: str, *, expected_sha256: str | None = None) -> SnapshotManifest:
        """A version's manifest, checked against its checksum file and `expected_sha256`.

        Raises:
            BadSnapshot: there is no such version (retriable), or the manifest is damaged.
        """
        raw = self._manifest_bytes(version)
        source = str(self.path(version) / _MANIFEST)
        if expected_sha256 is not None and _sha256(raw) != expected_sha256:
            raise BadSnapshot(
                "manifest is not the one announced",
                detail=f"{source} has sha256 {_sha256(raw)}, announced was {expected_sha256}.",
            )
        manifest = decode_manifest(raw, source)
        if manifest.version != version:
            raise BadSnapshot(
                "manifest of another version", detail=f"{source} describes {manifest.version}."
            )
        return manifest

    def read(self, manifest: SnapshotManifest, name: str) -> bytes:
        """The bytes of one part, checked against the manifest.

        Raises:
            BadSnapshot: the part is missing, torn or altered; the message names the file.
        """
        path = self.path(manifest.version) / name
        described = next((file for file in manifest.files if file.path == name), None)
        if described is None:
            raise BadSnapshot("part not in the manifest", detail=f"{path}.")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BadSnapshot("part not readable", detail=f"{path}: {error.strerror}.") from error
        if len(data) != described.size_bytes:
            raise BadSnapshot(
                "part has the wrong size",
                detail=f"{path} has {len(data)} bytes, the manifest says {described.size_bytes}.",
            )
        if _sha256(data) != described.sha256:
            raise BadSnapshot(
                "part does not match its checksum",
                detail=f"{path} has sha256 {_sha256(data)}, the manifest says {described.sha256}.",
            )
        return data

    def verify(self, version: str) -> SnapshotManifest:
        """Check every byte of a version and return its manifest.

        Raises:
            BadSnapshot: as `manifest` and `read`.
        """
        manifest = self.manifest(version)
        for file in manifest.files:
            self.read(manifest, file.path)
        return manifest

    def drop_old(self, *, keep: int) -> list[str]:
        """Remove all but the newest `keep` versions and the one pointed to; returns their names.

        What a crash left incomplete goes too, unless it is newer than every version kept.
        """
        pointer = self.latest()
        committed = self.versions()
        kept = set(committed[-keep:]) | ({pointer.version} if pointer else set())
        dropped = []
        for path in sorted(p for p in self.directory.iterdir() if p.name.isdigit()):
            if path.name in kept or (
                path.name not in committed and path.name > max(kept, default="")
            ):
                continue
            # Without its manifest a half-removed version is not a version.
            (path / _MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(path)
            dropped.append(path.name)
        return dropped

    def _manifest_bytes(self, version: str) -> bytes:
        path = self.path(version) / _MANIFEST
        try:
            raw = path.read_bytes()
            check = path.with_name(_MANIFEST_CHECK).read_bytes()
        except FileNotFoundError as error:
            raise BadSnapshot(
                "no such version",
                detail=f"{error.filename} does not exist.",
                hint=f"versions there: {', '.join(self.versions()) or 'none'}",
                retriable=True,
            ) from error
        if check != f"{_sha256(raw)}  {_MANIFEST}\n".encode():
            raise BadSnapshot(
                "manifest does not match its checksum",
                detail=f"{path} has sha256 {_sha256(raw)}, {_MANIFEST_CHECK} says {check[:64]!r}.",
            )
        return raw


def _describe(name: str, data: bytes) -> SnapshotFile:
    return SnapshotFile(
        path=name,
        size_bytes=len(data),
        sha256=_sha256(data),
        media_type=_MEDIA_TYPES.get(Path(name).suffix, "application/octet-stream"),
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
