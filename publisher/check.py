"""Whether a hand-over can be served at all: the shapes its configuration asks for, finite numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from ingest.runtime.errors import ConfigError, FreshetError
from trainer.export import Export
from trainer.idmap import IdMap
from trainer.model.config import ModelConfig
from trainer.model.recommender import Recommender

ITEM_WEIGHT = "item_weight"
ROW_IDS = "row_ids"


class ExportRefused(FreshetError):
    """A hand-over that must not be served; `reason` is one word, for the metric."""

    def __init__(self, reason: str, primary: str, *, detail: str) -> None:
        super().__init__(primary, detail=detail)
        self.reason = reason


def check_export(export: Export, dense: dict[str, Tensor], table: dict[str, Tensor]) -> None:
    """Refuse a hand-over that the server could not load or that would answer nonsense.

    Raises:
        ExportRefused: reason `config`, `shape`, `ids` or `not_finite`; the message names the tensor.
    """
    try:
        config = ModelConfig.from_dict(export.model)
    except (ConfigError, TypeError) as error:
        raise ExportRefused("config", "model configuration refused", detail=str(error)) from error
    wanted = {name: t.shape for name, t in Recommender(config).state_dict().items()}
    _check_shapes(wanted, {name: t.shape for name, t in dense.items()})
    _check_table(config, table)
    for name, tensor in {**dense, ITEM_WEIGHT: table[ITEM_WEIGHT]}.items():
        num_bad = int((~torch.isfinite(tensor)).sum())
        if num_bad:
            raise ExportRefused(
                "not_finite",
                "weights are not finite",
                detail=f"{name} has {num_bad} of {tensor.numel()} values NaN or infinite.",
            )


def _check_shapes(wanted: dict[str, torch.Size], found: dict[str, torch.Size]) -> None:
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise ExportRefused(
                "shape",
                "weights do not fit the configuration",
                detail=f"{name}: wanted {_shown(wanted.get(name))}, found {_shown(found.get(name))}.",
            )


def _check_table(config: ModelConfig, table: dict[str, Tensor]) -> None:
    if table.keys() != {ITEM_WEIGHT, ROW_IDS}:
        raise ExportRefused("shape", "table parts are wrong", detail=f"Found {sorted(table)}.")
    weight, ids = table[ITEM_WEIGHT], table[ROW_IDS]
    if weight.ndim != 2 or weight.shape[1] != config.item_width or ids.shape != weight.shape[:1]:
        raise ExportRefused(
            "shape",
            "table does not fit the configuration",
            detail=f"{ITEM_WEIGHT} {_shown(weight.shape)}, {ROW_IDS} {_shown(ids.shape)}, "
            f"item_width {config.item_width}.",
        )
    try:
        IdMap.from_row_ids(ids.numpy())
    except FreshetError as error:
        raise ExportRefused("ids", "table ids are wrong", detail=str(error)) from error


def _shown(shape: torch.Size | None) -> str:
    return "none" if shape is None else str(list(shape))
