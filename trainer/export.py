"""The export contract: what the trainer hands the publisher, one directory a hand-over.

    <exports>/<step, 12 digits>/
        dense.safetensors        every dense weight and the base-rate counters, by name in trainer.model.Recommender
        table.safetensors        item_weight float32[R,W], a row as the model reads it: learned, then
                                 counted at the cut; row_ids int64[R]: raw id, -1 where none;
                                 rows in use may lie anywhere but in row 0, the fallback
        export.json              Export, written last: a directory without it does not exist

The directory is written under a temporary name and renamed, so a reader sees all of it or nothing.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ingest.runtime.errors import FreshetError

if TYPE_CHECKING:
    # A contract is read by processes that never load a tensor: torch takes seconds to import.
    from torch import Tensor

_DESCRIPTION = "export.json"
_DENSE = "dense.safetensors"
_TABLE = "table.safetensors"


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """Where training stands in a partition of `sequences`.

    `offset` is the next message to train, `row` how many of its targets are trained already, and
    `clock_ms` the event-time clock the partition had shown by then.
    """

    offset: int
    row: int = 0
    clock_ms: int = -1


class TaskQuality(msgspec.Struct, frozen=True, kw_only=True):
    """A task's prequential figures at the cut; None where the window holds one class only."""

    ne_lifetime: float | None
    ne_window: float | None
    num_targets: int
    num_positives: int


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a hand-over that is not a tensor.

    `positions` maps a `sequences` partition to where it was cut; `model` is ModelConfig.to_dict();
    `schema` is the fingerprint of the messages learned from; `watermark_ms` the least clock.
    """

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


class BadExport(FreshetError):
    """A hand-over that is incomplete or cannot be read."""


def write_export(
    directory: Path, export: Export, *, dense: dict[str, Tensor], table: dict[str, Tensor]
) -> Path:
    """Write one hand-over below `directory` and return its path; an existing one of the step stays."""
    from safetensors.torch import save_file

    final = directory / f"{export.step:012d}"
    if final.exists():
        return final
    temporary = directory / f".{final.name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file({name: t.contiguous() for name, t in dense.items()}, temporary / _DENSE)
    save_file({name: t.contiguous() for name, t in table.items()}, temporary / _TABLE)
    (temporary / _DESCRIPTION).write_bytes(msgspec.json.encode(export))
    temporary.rename(final)
    return final


def list_exports(directory: Path) -> list[Path]:
    """Complete hand-overs below `directory`, oldest first."""
    if not directory.exists():
        return []
    return sorted(
        p for p in directory.iterdir() if p.name.isdigit() and (p / _DESCRIPTION).exists()
    )


def read_export(path: Path) -> tuple[Export, dict[str, Tensor], dict[str, Tensor]]:
    """The description, the dense weights and the table of one hand-over.

    Raises:
        BadExport: a part is missing or torn.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        export = msgspec.json.decode((path / _DESCRIPTION).read_bytes(), type=Export)
        return export, load_file(path / _DENSE), load_file(path / _TABLE)
    except (OSError, ValueError, SafetensorError, msgspec.DecodeError) as error:
        raise BadExport("export not readable", detail=f"{path}: {error}") from error


def drop_left_overs(directory: Path) -> None:
    """Remove what killed writers left below `directory` under temporary names."""
    for path in directory.glob(".[0-9]*.*"):
        if path.is_dir():
            shutil.rmtree(path)


def drop_exports(directory: Path, *, keep: int) -> None:
    """Remove all but the newest `keep` hand-overs."""
    for path in list_exports(directory)[:-keep] if keep else list_exports(directory):
        shutil.rmtree(path)
