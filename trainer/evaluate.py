"""Scores candidates by the training forward of an export: what serving's answers must equal.

    python -m trainer.evaluate EXPORT < request.json

The request is a `Request` as JSON, the answer a list of probabilities per task.
"""

from __future__ import annotations

import argparse
import sys
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from features.sequence_reader import SequenceColumns, check_tokens
from features.sequences import TOKEN
from ingest.runtime.errors import FreshetError
from ingest.runtime.service import run
from trainer.batch import TokenBatch
from trainer.export import read_export
from trainer.idmap import IdMap
from trainer.model.config import ModelConfig
from trainer.model.recommender import Recommender

Int64 = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
UInt32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]


class HistoryToken(msgspec.Struct, frozen=True, kw_only=True):
    """One token of a history, as features.sequences.TOKEN has it."""

    item_id: Annotated[int, msgspec.Meta(ge=-(2**63) + 1, le=2**63 - 1)]
    event_time_ms: Int64
    actions: UInt32
    watch_ms: UInt32 = 0
    price_minor: Int64 = 0


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to score: a user's history in time order, the candidates, and the moment."""

    user_id: Int64
    history: list[HistoryToken]
    candidates: Annotated[list[Int64], msgspec.Meta(min_length=1)]
    time_ms: Int64


class Evaluator:
    """A version's model, table and id map.

    Args:
        model: ModelConfig.to_dict() of the version.
        dense: its dense weights by name.
        table: `item_weight` and `row_ids`, as in trainer.export.
    """

    def __init__(
        self, model: dict[str, Any], dense: dict[str, Tensor], table: dict[str, Tensor]
    ) -> None:
        self.config = ModelConfig.from_dict(model)
        self._model = Recommender(self.config)
        self._model.load_state_dict(dense)
        self._model.eval()
        self._weight = table["item_weight"]
        self._idmap = IdMap.from_row_ids(table["row_ids"].numpy())

    @classmethod
    def of_export(cls, path: Path) -> Evaluator:
        """The evaluator of one hand-over.

        Raises:
            BadExport: it is incomplete.
        """
        export, dense, table = read_export(path)
        return cls(export.model, dense, table)

    def probabilities(
        self,
        *,
        user_id: int,
        history: npt.NDArray[np.void],
        candidates: npt.NDArray[np.int64],
        time_ms: int,
    ) -> npt.NDArray[np.float32]:
        """Every candidate as a target at `time_ms` of one message: float32[M,tasks].

        Shapes: `history` TOKEN[n] in time order; `candidates` raw item ids int64[M].
        """
        targets = np.zeros(len(candidates), TOKEN)
        targets["item_id"], targets["event_time_ms"] = candidates, time_ms
        tokens = np.concatenate([history, targets])
        batch = TokenBatch.from_columns(
            SequenceColumns.of_user(user_id, tokens, num_targets=len(targets)),
            max_history=self.config.max_history,
        )
        rows = torch.from_numpy(self._idmap.rows_of(batch.item_ids.numpy()))
        with torch.no_grad():
            logits = self._model(batch, self._weight[rows]).task_logits
        return torch.sigmoid(logits).numpy()


def read_request(text: bytes) -> Request:
    """A request from JSON.

    Raises:
        FreshetError: not one, a value out of range, or a history that goes back in time.
    """
    try:
        request = msgspec.json.decode(text, type=Request)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FreshetError("request not readable", detail=str(error)) from error
    if any(newer.event_time_ms < older.event_time_ms for older, newer in pairwise(request.history)):
        raise FreshetError("history out of order", hint="sort it by event_time_ms, oldest first")
    return request


def main() -> None:
    """Answer one request from standard input."""
    parser = argparse.ArgumentParser(prog="python -m trainer.evaluate", description=__doc__)
    parser.add_argument("export", type=Path, help="directory of one export")
    evaluator = Evaluator.of_export(parser.parse_args().export)
    request = read_request(sys.stdin.buffer.read())
    history = np.zeros(len(request.history), TOKEN)
    for name in TOKEN.names or ():
        history[name] = [getattr(token, name) for token in request.history]
    check_tokens(request.user_id, history, num_targets=0)
    found = evaluator.probabilities(
        user_id=request.user_id,
        history=history,
        candidates=np.array(request.candidates, np.int64),
        time_ms=request.time_ms,
    )
    by_task = {task: found[:, i].tolist() for i, task in enumerate(evaluator.config.task_names)}
    sys.stdout.write(msgspec.json.encode(by_task).decode() + "\n")


if __name__ == "__main__":
    run(main)
