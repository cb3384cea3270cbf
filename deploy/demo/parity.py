"""Score parity: what the server answers against the trainer's own forward on the same version."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.torch import load

from deploy.demo.client import ServingClient
from features.sequences import TOKEN
from ingest.runtime.errors import FreshetError
from publisher.settings import PublisherSettings
from publisher.snapshots import DENSE, TABLE, SnapshotStore
from trainer.evaluate import Evaluator

_NUM_CANDIDATES = 50


def compare_scores(
    client: ServingClient, snapshots: Path, users: list[int]
) -> dict[str, float | int]:
    """The largest difference of a probability over `users` and a list of candidates each.

    The server encodes a history once and scores candidates against it; the trainer's forward has
    history and candidates in one pass, as in training.
    """
    model_name: str = PublisherSettings.model_fields["model_name"].default
    store = SnapshotStore(snapshots, model_name)
    worst, num_scores = 0.0, 0
    for user_id in users:
        history = client.user(user_id)
        candidates = [i["item_id"] for i in client.recommend(user_id, _NUM_CANDIDATES)["items"]]
        time_ms = history[-1]["event_time_ms"] + 1
        served = client.rank(user_id, candidates, time_ms)
        manifest = store.manifest(served["version"])
        evaluator = Evaluator(
            manifest.model, load(store.read(manifest, DENSE)), load(store.read(manifest, TABLE))
        )
        trained = evaluator.probabilities(
            user_id=user_id,
            history=np.array(
                [tuple(token[name] for name in TOKEN.names or ()) for token in history], TOKEN
            ),
            candidates=np.array(candidates, np.int64),
            time_ms=time_ms,
        )
        of_server = np.array([served["scores"][task] for task in evaluator.config.task_names]).T
        num_scores += trained.size
        worst = float(np.maximum(worst, np.abs(trained - of_server).max()))
    if not num_scores or np.isnan(worst):
        raise FreshetError(
            "score parity could not be measured", detail=f"{num_scores} scores, worst {worst}."
        )
    return {"parity_max_abs_error": worst, "parity_num_scores": num_scores}
