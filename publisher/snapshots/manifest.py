"""What a version says about itself, and the message that announces it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ingest.runtime.errors import FreshetError
from trainer.export import Position, TaskQuality

FORMAT_VERSION = 1
_VERSION_DIGITS = 12


class BadSnapshot(FreshetError):
    """A version that is incomplete, damaged, or of a format this build does not read."""


class SnapshotFile(msgspec.Struct, frozen=True, kw_only=True):
    """One part of a version; `path` is relative to the version's directory."""

    path: str
    size_bytes: int
    sha256: str
    media_type: str


class SnapshotManifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a version that is not a tensor.

    `positions` maps a `sequences` partition to where training stood; `watermark_ms` is the least
    event-time clock of them (UTC); `quality` holds each task's normalized entropy at the cut;
    `model` is ModelConfig.to_dict(); `schema` the fingerprint of the messages learned from;
    `parent` the version it replaces, None for the first one.
    """

    format_version: int = FORMAT_VERSION
    version: str
    kind: Literal["full"] = "full"
    parent: str | None
    files: tuple[SnapshotFile, ...]
    step: int
    num_targets: int
    positions: dict[int, Position]
    watermark_ms: int
    quality: dict[str, TaskQuality]
    model: dict[str, Any]
    config: dict[str, Any]
    schema: str
    code_revision: str
    exported_at_ms: int
    created_at_ms: int


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """The value of a `snapshots` record; its key is the model's name.

    `uri` names the version's directory, `manifest_sha256` the exact bytes of its manifest.json.
    """

    version: str
    uri: str
    manifest_sha256: str
    step: int
    watermark_ms: int


class _Format(msgspec.Struct):
    format_version: int


def version_of(step: int) -> str:
    """The version's name: its step, padded so that names sort as steps do.

    Example:
        >>> version_of(120)
        '000000000120'
    """
    return f"{step:0{_VERSION_DIGITS}d}"


def encode_manifest(manifest: SnapshotManifest) -> bytes:
    """The bytes of manifest.json, indented for people."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode_manifest(raw: bytes, source: str) -> SnapshotManifest:
    """Read the bytes of manifest.json; `source` is the file's name for messages.

    Raises:
        BadSnapshot: a newer format, or no manifest at all.
    """
    try:
        found = msgspec.json.decode(raw, type=_Format).format_version
        if found != FORMAT_VERSION:
            raise BadSnapshot(
                "unknown snapshot format",
                detail=f"{source} has format_version {found}, this build reads {FORMAT_VERSION}.",
                hint="run serving from the publisher's revision or a later one",
            )
        return msgspec.json.decode(raw, type=SnapshotManifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadSnapshot("manifest not readable", detail=f"{source}: {error}.") from error


def decode_announcement(value: bytes) -> Announcement:
    """Read a record of `snapshots`.

    Raises:
        BadSnapshot: the value is no announcement.
    """
    try:
        return msgspec.json.decode(value, type=Announcement)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadSnapshot(
            "announcement not readable", detail=f"{value[:200]!r}: {error}."
        ) from error
