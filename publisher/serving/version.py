"""One loaded version: everything a request needs, and nothing of any other version."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load
from torch import Tensor

from features.sequence_reader import SequenceColumns
from features.sequences import TOKEN
from publisher.check import ITEM_WEIGHT, ROW_IDS
from publisher.serving import metrics
from publisher.serving.config import ServingConfig
from publisher.serving.users import UserState
from publisher.snapshots import DENSE, TABLE, BadSnapshot, SnapshotManifest, SnapshotStore
from trainer.batch import TokenBatch
from trainer.idmap import FALLBACK_ROW, IdMap
from trainer.model.config import ModelConfig
from trainer.model.recommender import HistoryCache, Recommender


class Retrieved(NamedTuple):
    """A shortlist, best first: `item_ids` int64[K], cosine `similarities` float32[K]."""

    item_ids: npt.NDArray[np.int64]
    similarities: Tensor


class ServedVersion:
    """Weights, table, id map and the histories encoded with them.

    Shapes: W width of an item's row, T history tokens, M candidates; `row_ids` int64[R], the raw ids
    of the rows up to the last in use, -1 for the fallback row and those free.
    """

    def __init__(
        self,
        manifest: SnapshotManifest,
        model: Recommender,
        *,
        item_weight: Tensor,
        row_ids: npt.NDArray[np.int64],
        config: ServingConfig,
    ) -> None:
        self.manifest = manifest
        self.model = model
        self.task_names = model.config.task_names
        self._config = config
        self._item_weight = item_weight
        self._idmap = IdMap.from_row_ids(row_ids)
        # Free rows at the end need no vectors.
        self.row_ids = row_ids[: self._idmap.end_row]
        # Context tokens' ids are negative like "no id": neither is ever recommended.
        self._no_items = np.flatnonzero(self.row_ids < 0)
        with torch.inference_mode():
            self._vectors = model.item_vectors(item_weight[: len(self.row_ids)])
        self._encoded: OrderedDict[tuple[int, int, int], HistoryCache] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def num_items(self) -> int:
        """Items that have a row of their own."""
        return len(self.row_ids) - len(self._no_items)

    def num_unknown(self, item_ids: npt.NDArray[np.int64]) -> int:
        """How many of them have no row of their own."""
        return int((self._idmap.rows_of(item_ids) == FALLBACK_ROW).sum())

    def embed(self, item_ids: npt.NDArray[np.int64]) -> Tensor:
        """Items' rows, [M] -> [M,W]; an item without one gets the fallback row and is counted."""
        rows = self._idmap.rows_of(item_ids)
        metrics.FALLBACK_ROWS.inc(int((rows == FALLBACK_ROW).sum()))
        return self._item_weight.index_select(0, torch.from_numpy(rows))

    @torch.inference_mode()
    def encode(self, tokens: npt.NDArray[np.void]) -> HistoryCache:
        """Encode one user's history, TOKEN[T] in time order; the newest `max_history` count."""
        columns = SequenceColumns.of_user(0, tokens, num_targets=0)
        batch = TokenBatch.from_columns(columns, max_history=self.model.config.max_history)
        return self.model.encode(batch, self.embed(batch.item_ids.numpy()))

    def encode_user(self, user_id: int, state: UserState) -> HistoryCache:
        """Encode a kept history, or take what was encoded before of the same tokens."""
        key = (user_id, state.partition, state.newest_offset)
        with self._lock:
            found = self._encoded.get(key)
            if found is not None:
                self._encoded.move_to_end(key)
                return found
        encoded = self.encode(state.tokens)
        with self._lock:
            self._encoded[key] = encoded
            if len(self._encoded) > self._config.cached_histories:
                self._encoded.popitem(last=False)
        return encoded

    @torch.inference_mode()
    def score(self, history: HistoryCache, item_ids: npt.NDArray[np.int64], time_ms: int) -> Tensor:
        """Task logits of candidates shown at `time_ms` (UTC): int64[M] -> [M,tasks]."""
        size = self._config.micro_batch
        logits = [
            self.model.score(
                history,
                torch.zeros(len(part), dtype=torch.int64),
                self.embed(part),
                torch.full((len(part),), time_ms, dtype=torch.int64),
            )
            for part in np.split(item_ids, range(size, len(item_ids), size))
        ]
        return torch.cat(logits)

    @torch.inference_mode()
    def retrieve(
        self, history: HistoryCache, count: int, *, excluded: npt.NDArray[np.int64]
    ) -> Retrieved:
        """The `count` items nearest to the user by exact dot product, without the `excluded` ids."""
        similarities = self._vectors @ history.query[0]
        rows = np.union1d(self._idmap.rows_of(excluded), self._no_items)
        similarities[torch.from_numpy(rows)] = -torch.inf
        best = similarities.topk(min(count, len(self.row_ids) - len(rows)))
        return Retrieved(self.row_ids[best.indices.numpy()], best.values)


def load_version(
    store: SnapshotStore,
    version: str,
    config: ServingConfig,
    *,
    manifest_sha256: str | None = None,
) -> ServedVersion:
    """Read a version, check every byte, build it and try it.

    Raises:
        BadSnapshot: damaged, missing, of another shape, or its scores are not finite.
        ConfigError: the model's configuration cannot work.
    """
    manifest = store.manifest(version, expected_sha256=manifest_sha256)
    model_config = ModelConfig.from_dict(manifest.model)
    if model_config.max_history > config.max_history:
        raise BadSnapshot(
            "version needs longer histories than are kept",
            detail=f"{version} wants {model_config.max_history}, kept are {config.max_history}.",
            hint="raise FRESHET_SERVING_MAX_HISTORY",
        )
    model = Recommender(model_config, config.attention_backend)
    table = load(store.read(manifest, TABLE))
    try:
        model.load_state_dict(load(store.read(manifest, DENSE)))
    except RuntimeError as error:
        raise BadSnapshot("weights do not fit the model", detail=f"{version}: {error}") from error
    served = ServedVersion(
        manifest,
        model.eval().requires_grad_(False),
        item_weight=table[ITEM_WEIGHT],
        row_ids=table[ROW_IDS].numpy(),
        config=config,
    )
    _try(served)
    return served


def _try(served: ServedVersion) -> None:
    """Score once before anybody asks: proves the version works and warms it up."""
    newest = np.zeros(1, TOKEN)
    newest["item_id"] = served.row_ids[-1]
    newest["event_time_ms"] = served.manifest.watermark_ms
    logits = served.score(served.encode(newest), newest["item_id"], served.manifest.watermark_ms)
    if not bool(torch.isfinite(logits).all()):
        raise BadSnapshot("scores are not finite", detail=f"{served.manifest.version}: {logits}.")
