"""The snapshot store: a version is there whole or not at all."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.runtime.errors import ConfigError
from publisher.snapshots import BadSnapshot, SnapshotManifest, SnapshotStore, version_of
from publisher.snapshots.manifest import (
    Announcement,
    decode_announcement,
    decode_manifest,
    encode_manifest,
)
from tests.publisher.tiny import CONFIG
from trainer.export import Position, TaskQuality

PARTS = {"dense.safetensors": b"dense weights" * 50, "table.safetensors": b"rows" * 100}


class Crash(BaseException):
    """The machine stops here."""


def manifest_of(step: int, parent: str | None = None) -> SnapshotManifest:
    return SnapshotManifest(
        version=version_of(step),
        parent=parent,
        files=(),
        step=step,
        num_targets=5,
        positions={0: Position(offset=7, row=2, clock_ms=9), 11: Position(offset=1)},
        watermark_ms=9,
        quality={
            "like": TaskQuality(ne_lifetime=0.5, ne_window=None, num_targets=3, num_positives=1)
        },
        model=CONFIG.to_dict(),
        config={},
        schema="s",
        code_revision="r",
        exported_at_ms=1,
        created_at_ms=2,
    )


def publish(store: SnapshotStore, step: int) -> None:
    store.write(
        manifest_of(step), {name: data + str(step).encode() for name, data in PARTS.items()}
    )
    store.point(version_of(step))


def test_a_version_reads_back_as_written(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path, "m")
    publish(store, 3)
    pointer = store.latest()
    assert pointer is not None
    manifest = store.manifest(pointer.version, expected_sha256=pointer.manifest_sha256)
    assert msgspec.structs.replace(manifest, files=()) == manifest_of(3)
    assert store.read(manifest, "dense.safetensors") == PARTS["dense.safetensors"] + b"3"
    assert store.versions() == ["000000000003"]


def test_sha256sum_accepts_the_manifest(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path, "m")
    publish(store, 3)
    where = store.path(version_of(3))
    subprocess.run(["sha256sum", "--strict", "-c", "manifest.json.sha256"], cwd=where, check=True)


def effects(monkeypatch: pytest.MonkeyPatch, crash_at: int) -> list[str]:
    """Count every effect on the disk; raise before number `crash_at`, or half through a write."""
    seen: list[str] = []
    real_write, real_fsync, real_replace, real_mkdir = os.write, os.fsync, Path.replace, Path.mkdir

    def reached(name: str) -> bool:
        seen.append(name)
        return len(seen) - 1 == crash_at

    def write(descriptor: int, data: memoryview) -> int:
        if reached("write"):
            real_write(descriptor, data[: len(data) // 2])
            raise Crash
        return real_write(descriptor, data)

    def fsync(descriptor: int) -> None:
        if reached("fsync"):
            raise Crash
        real_fsync(descriptor)

    def replace(path: Path, target: Path) -> Path:
        if reached("replace"):
            raise Crash
        return real_replace(path, target)

    def mkdir(path: Path, *args: object, **kwargs: object) -> None:
        if reached("mkdir"):
            raise Crash
        real_mkdir(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(Path, "mkdir", mkdir)
    return seen


def test_a_crash_at_any_effect_leaves_the_old_or_the_new_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        store = SnapshotStore(tmp_path / "whole", "m")
        num_effects = len(publish_counted(store, patched))
    assert num_effects > 15
    for crash_at in range(num_effects):
        store = SnapshotStore(tmp_path / str(crash_at), "m")
        publish(store, 1)
        with monkeypatch.context() as patched:
            effects(patched, crash_at)
            with pytest.raises(Crash):
                publish(store, 2)
        pointer = store.latest()
        assert pointer is not None
        assert pointer.version in (version_of(1), version_of(2))
        for version in store.versions():
            store.verify(version)
        store.manifest(pointer.version, expected_sha256=pointer.manifest_sha256)
        publish(store, 2)
        assert store.latest() == store.point(version_of(2))
        assert store.verify(version_of(2)).step == 2


def publish_counted(store: SnapshotStore, patched: pytest.MonkeyPatch) -> list[str]:
    publish(store, 1)
    seen = effects(patched, -1)
    publish(store, 2)
    return seen


@given(data=st.data())
def test_any_altered_or_truncated_file_is_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    store = SnapshotStore(tmp_path_factory.mktemp("store"), "m")
    publish(store, 1)
    files = sorted(p for p in store.path(version_of(1)).iterdir())
    path = data.draw(st.sampled_from(files))
    raw = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        bit = data.draw(st.integers(0, len(raw) * 8 - 1))
        raw[bit // 8] ^= 1 << bit % 8
        path.write_bytes(raw)
    else:
        path.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
    with pytest.raises(BadSnapshot) as refused:
        store.verify(version_of(1))
    assert path.name.removesuffix(".sha256") in str(refused.value)


def test_a_missing_part_is_refused_by_name(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path, "m")
    publish(store, 1)
    (store.path(version_of(1)) / "table.safetensors").unlink()
    with pytest.raises(BadSnapshot, match=r"table\.safetensors"):
        store.verify(version_of(1))


def test_a_manifest_of_another_publication_is_refused(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path, "m")
    publish(store, 1)
    with pytest.raises(BadSnapshot, match="not the one announced"):
        store.manifest(version_of(1), expected_sha256="0" * 64)


def test_a_newer_format_is_refused_by_its_number() -> None:
    raw = encode_manifest(msgspec.structs.replace(manifest_of(1), format_version=2))
    with pytest.raises(BadSnapshot, match="format_version 2"):
        decode_manifest(raw, "manifest.json")


def test_a_committed_version_is_never_written_again(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path, "m")
    publish(store, 1)
    kept = store.write(manifest_of(1), {"dense.safetensors": b"other"})
    assert kept == store.verify(version_of(1))
    assert len(kept.files) == 2


def test_retention_keeps_the_newest_and_the_one_pointed_to(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path, "m")
    for step in range(1, 7):
        publish(store, step)
    store.point(version_of(2))
    (store.path(version_of(4)) / "manifest.json").unlink()
    assert store.drop_old(keep=2) == [version_of(s) for s in (1, 3, 4)]
    assert store.versions() == [version_of(s) for s in (2, 5, 6)]


def test_a_model_name_that_is_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model_name"):
        SnapshotStore(tmp_path, "../elsewhere")


@given(step=st.integers(0, 10**12 - 1), other=st.integers(0, 10**12 - 1))
def test_versions_sort_as_their_steps(step: int, other: int) -> None:
    assert (version_of(step) < version_of(other)) == (step < other)


def test_an_announcement_survives_the_topic() -> None:
    sent = Announcement(version="1", uri="file:///x", manifest_sha256="a", step=1, watermark_ms=2)
    assert decode_announcement(msgspec.json.encode(sent)) == sent
    with pytest.raises(BadSnapshot):
        decode_announcement(b"\xff{")
