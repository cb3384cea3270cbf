"""Tiny models, hand-overs and messages with random content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from features.sequences import TOKEN, encode_correction, encode_targets
from ingest.runtime.kafka import Record
from trainer.export import Export, Position, TaskQuality, write_export
from trainer.model.config import ModelConfig
from trainer.model.recommender import Recommender

CONFIG = ModelConfig(
    tasks=(("click", 2), ("like", 8)), embedding_dim=16, qk_dim=8, value_dim=8, max_history=32,
    counted_rates=True,
)  # fmt: skip
WATERMARK_MS = 1_700_000_000_000
ITEM_IDS = list(range(1000, 4000, 7))


def tiny_model(seed: int, config: ModelConfig = CONFIG) -> Recommender:
    torch.manual_seed(seed)
    model = Recommender(config)
    if model.ranking.counted is not None:  # begins at 0, where nothing counted would be seen
        for weight in model.ranking.counted.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    return model.eval()


def tiny_table(seed: int, config: ModelConfig = CONFIG) -> dict[str, torch.Tensor]:
    """Rows in no order of their ids, free ones at the end; row 0 is the fallback."""
    generator = torch.Generator().manual_seed(seed)
    row_ids = torch.full((len(ITEM_IDS) + 50,), -1, dtype=torch.int64)
    order = torch.randperm(len(ITEM_IDS), generator=generator)
    row_ids[1 : len(ITEM_IDS) + 1] = torch.tensor(ITEM_IDS)[order]
    weight = torch.randn(len(row_ids), config.item_width, generator=generator)
    return {"item_weight": weight, "row_ids": row_ids}


def tiny_export(directory: Path, step: int, **changes: object) -> Path:
    """A hand-over of `step`; `changes` replace fields of Export, `dense` or `table`."""
    dense = changes.pop("dense", None) or dict(tiny_model(step).state_dict())
    table = changes.pop("table", None) or tiny_table(step)
    quality = TaskQuality(ne_lifetime=0.9, ne_window=None, num_targets=10, num_positives=3)
    fields: dict[str, object] = {
        "step": step,
        "num_targets": step * 10,
        "positions": {0: Position(offset=step, row=1, clock_ms=WATERMARK_MS + step)},
        "watermark_ms": WATERMARK_MS + step,
        "quality": {"click": quality},
        "model": CONFIG.to_dict(),
        "config": {"learning_rate": 0.1},
        "schema": "abcd1234",
        "code_revision": "test",
        "exported_at_ms": 1,
    }
    return write_export(directory, Export(**(fields | changes)), dense=dense, table=table)


def tiny_tokens(seed: int, num: int) -> npt.NDArray[np.void]:
    random = np.random.default_rng(seed)
    tokens = np.zeros(num, TOKEN)
    tokens["item_id"] = random.choice([*ITEM_IDS, 1, 2, 3], num)
    tokens["event_time_ms"] = WATERMARK_MS + np.sort(random.integers(0, 10**9, num))
    tokens["actions"] = random.integers(0, 64, num)
    tokens["watch_ms"] = random.integers(0, 10**6, num)
    tokens["price_minor"] = random.integers(0, 10**5, num)
    return tokens


def targets_record(
    user_id: int,
    tokens: npt.NDArray[np.void],
    *,
    partition: int = 0,
    offset: int = 0,
    clock_ms: int = WATERMARK_MS,
    num_targets: int = 1,
) -> Record:
    value = encode_targets(
        partition=partition,
        user_id=user_id,
        clock_ms=clock_ms,
        first_offset=0,
        last_offset=num_targets,
        lifetime_tokens=len(tokens) - num_targets,
        tokens=tokens.tobytes(),
        target_offsets=list(range(num_targets)),
    )
    return Record(partition, offset, 0, str(user_id).encode(), value, ())


def correction_record(
    user_id: int,
    tokens: npt.NDArray[np.void],
    changed: int,
    *,
    partition: int = 0,
    offset: int = 0,
    clock_ms: int = WATERMARK_MS,
) -> Record:
    """The last of `tokens` told again, with the bits `changed` set besides."""
    tokens = tokens.copy()
    tokens["actions"][-1] |= changed
    value = encode_correction(
        partition=partition,
        user_id=user_id,
        clock_ms=clock_ms,
        offset=offset,
        lifetime_tokens=len(tokens) - 1,
        tokens=tokens.tobytes(),
        changed=changed,
    )
    return Record(partition, offset, 0, str(user_id).encode(), value, ())
