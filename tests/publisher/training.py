"""What training computes, for comparison with what serving answers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from features.sequence_reader import SequenceColumns
from tests.publisher.tiny import CONFIG, tiny_model, tiny_table
from trainer.batch import TokenBatch


def forward_logits(
    history: npt.NDArray[np.void], candidates: npt.NDArray[np.int64], time_ms: int, step: int = 1
) -> torch.Tensor:
    """What training computes: history and candidates in one message, candidates as targets."""
    targets = np.zeros(len(candidates), history.dtype)
    targets["item_id"], targets["event_time_ms"] = candidates, time_ms
    tokens = np.concatenate([history, targets])
    columns = SequenceColumns.of_user(7, tokens, num_targets=len(candidates))
    batch = TokenBatch.from_columns(columns, max_history=CONFIG.max_history)
    table = tiny_table(step)
    row_of = {int(item): row for row, item in enumerate(table["row_ids"].tolist()) if item >= 0}
    rows = torch.tensor([row_of.get(item, 0) for item in batch.item_ids.tolist()])
    with torch.no_grad():
        return tiny_model(step)(batch, table["item_weight"][rows]).task_logits
