"""Checkpoints: everything a run needs to go on bit for bit, one directory each, all or nothing.

    <checkpoints>/<step, 12 digits>/
        dense.safetensors  adam.safetensors  idmap.safetensors  table.safetensors
        rates.safetensors  scores.safetensors
        checkpoint.json      State and every file's checksum, itself sealed by one

Written under a temporary name, synced, renamed. What does not match its checksum is refused.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ingest.runtime.disk import sync
from ingest.runtime.errors import ConfigError, FreshetError
from trainer.export import Position, drop_left_overs
from trainer.quality import TaskRecord

_STATE = "checkpoint.json"
_GROUPS = ("dense", "adam", "idmap", "table", "rates", "scores")


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What of a checkpoint is no tensor; `quality` maps a task to its record."""

    step: int
    num_targets: int
    clock_ms: int
    positions: dict[int, Position]
    quality: dict[str, TaskRecord]
    config: dict[str, Any]
    schema: str
    code_revision: str
    num_corrections: int = 0


class _Sealed(msgspec.Struct, frozen=True, kw_only=True):
    state: msgspec.Raw
    files: dict[str, str]
    seal: str


class BadCheckpoint(FreshetError):
    """A checkpoint that is incomplete or not what was written."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint in memory: `tensors` by group (as the files are named), then by name."""

    state: State
    tensors: dict[str, dict[str, Tensor]]


def write_checkpoint(directory: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write one, make it durable, drop all but the newest `keep`; a sound one of the step stays."""
    final = directory / f"{checkpoint.state.step:012d}"
    if final.exists():
        try:
            read_checkpoint(final)
        except BadCheckpoint:
            shutil.rmtree(final)
        else:
            return final
    temporary = directory / f".{final.name}.{os.getpid()}"
    drop_left_overs(directory)
    temporary.mkdir(parents=True)
    for group in _GROUPS:
        tensors = {name: t.contiguous() for name, t in checkpoint.tensors[group].items()}
        save_file(tensors, temporary / _file_name(group))
    files = {name: _checksum(temporary / name) for name in map(_file_name, _GROUPS)}
    state = msgspec.json.encode(checkpoint.state)
    sealed = _Sealed(state=msgspec.Raw(state), files=files, seal=_seal(state, files))
    (temporary / _STATE).write_bytes(msgspec.json.encode(sealed))
    for path in [*temporary.iterdir(), temporary]:
        sync(path)
    temporary.rename(final)
    sync(directory)
    for old in list_checkpoints(directory)[:-keep]:
        shutil.rmtree(old)
    return final


def list_checkpoints(directory: Path) -> list[Path]:
    """Checkpoints below `directory`, oldest first, whether readable or not."""
    if not directory.exists():
        return []
    return sorted(path for path in directory.iterdir() if path.name.isdigit())


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one.

    Raises:
        BadCheckpoint: a part is missing, torn or changed.
    """
    try:
        sealed = msgspec.json.decode((path / _STATE).read_bytes(), type=_Sealed)
        if _seal(bytes(sealed.state), sealed.files) != sealed.seal:
            raise BadCheckpoint("checkpoint changed", detail=f"{path / _STATE}: seal differs.")
        for name, checksum in sealed.files.items():
            if _checksum(path / name) != checksum:
                raise BadCheckpoint("checkpoint changed", detail=f"{path / name}: sum differs.")
        state = msgspec.json.decode(sealed.state, type=State)
        tensors = {group: load_file(path / _file_name(group)) for group in _GROUPS}
    except (OSError, ValueError, msgspec.DecodeError, SafetensorError) as error:
        raise BadCheckpoint("checkpoint not readable", detail=f"{path}: {error}") from error
    return Checkpoint(state=state, tensors=tensors)


def find_newest(directory: Path) -> Path | None:
    """The newest checkpoint that can be read, each newer one named in a warning; None without any.

    Raises:
        BadCheckpoint: there are some and none can be read: to begin anew is for a person to decide.
    """
    found = list_checkpoints(directory)
    for path in reversed(found):
        try:
            read_checkpoint(path)
        except BadCheckpoint as error:
            structlog.get_logger().warning(
                "checkpoint_refused", path=str(path), reason=error.primary, detail=error.detail
            )
        else:
            return path
    if found:
        raise BadCheckpoint(
            "no checkpoint is readable",
            detail=f"{len(found)} in {directory}.",
            hint="restore one, or empty the directory to begin anew, and give the publisher "
            "another store or model name",
        )
    return None


def drop_newer(directory: Path, *, step: int) -> None:
    """Remove checkpoints newer than the one gone on from: they were refused and would count in `keep`."""
    for path in list_checkpoints(directory):
        if int(path.name) > step:
            shutil.rmtree(path)


def require_same(state: State, config: dict[str, Any], schema: str) -> None:
    """Refuse a checkpoint of another model, table or message schema.

    Raises:
        ConfigError: names every field that differs, with both values.
    """
    then, now = state.config, msgspec.json.decode(msgspec.json.encode(config))
    differing = [
        f"model.{name}: checkpoint {then['model'].get(name)!r}, configured {now['model'].get(name)!r}"
        for name in sorted(then["model"].keys() | now["model"].keys())
        if then["model"].get(name) != now["model"].get(name)
    ]
    if then["table_rows"] != now["table_rows"]:
        differing.append(
            f"table_rows: checkpoint {then['table_rows']}, configured {now['table_rows']}"
        )
    if state.schema != schema:
        differing.append(f"sequence schema: checkpoint {state.schema}, this build {schema}")
    if differing:
        raise ConfigError(
            "the checkpoint is of another model",
            detail="; ".join(differing) + ".",
            hint="configure what it was trained with, or give another checkpoint directory",
        )


def _file_name(group: str) -> str:
    return f"{group}.safetensors"


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(state: bytes, files: dict[str, str]) -> str:
    return hashlib.sha256(state + msgspec.json.encode(sorted(files.items()))).hexdigest()
