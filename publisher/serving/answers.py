"""From a checked request to its answer: pure of HTTP, always one version from start to end."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from features.sequence_reader import check_tokens
from features.sequences import TOKEN, CorruptSequence
from ingest.runtime.errors import FreshetError
from publisher.serving.config import ServingConfig
from publisher.serving.errors import RequestError, unknown_user
from publisher.serving.live import positions_of
from publisher.serving.schemas import (
    RankAnswer,
    RankRequest,
    RecommendAnswer,
    RecommendedItem,
    RecommendRequest,
    Token,
)
from publisher.serving.users import UserStates
from publisher.serving.version import ServedVersion
from trainer.model.recommender import HistoryCache

_SHORTLIST_FACTOR = 4


class _History(NamedTuple):
    tokens: npt.NDArray[np.void]
    encoded: HistoryCache


def rank(
    request: RankRequest, version: ServedVersion, users: UserStates, config: ServingConfig
) -> RankAnswer:
    """Score the candidates; a user without history is scored from the start state.

    Raises:
        RequestError: too many candidates, or a history out of order.
    """
    _check_limit("candidates", len(request.candidates), config.max_candidates)
    history = _history(request, version, users) or _given(request.user_id, [], version)
    time_ms = _time_ms(request.time_ms, history, version)
    item_ids = np.array(request.candidates, np.int64)
    probabilities = _probabilities(version.score(history.encoded, item_ids, time_ms))
    return RankAnswer(
        **_origin(request.user_id, time_ms, history, version),
        candidates=request.candidates,
        scores=dict(zip(version.task_names, probabilities.t().tolist(), strict=True)),
        num_unknown=version.num_unknown(item_ids),
    )


def recommend(
    request: RecommendRequest, version: ServedVersion, users: UserStates, config: ServingConfig
) -> RecommendAnswer:
    """Shortlist by retrieval over the whole catalogue, then order by the ranking head.

    Raises:
        RequestError: k too large, no such task, a history out of order, or nothing is known of the
            user (status 404).
    """
    _check_limit("k", request.k, config.max_k)
    task = request.task or version.task_names[0]
    if task not in version.task_names:
        raise RequestError(
            422, "unknown task", detail=f"{task!r}.", hint=f"tasks: {', '.join(version.task_names)}"
        )
    history = _history(request, version, users)
    if history is None:
        raise unknown_user(request.user_id)
    time_ms = _time_ms(request.time_ms, history, version)
    seen = history.tokens["item_id"] if request.exclude_seen else np.empty(0, np.int64)
    size = max(_SHORTLIST_FACTOR * request.k, config.shortlist)
    shortlist = version.retrieve(history.encoded, size, excluded=seen)
    items: list[RecommendedItem] = []
    if len(shortlist.item_ids):
        probabilities = _probabilities(version.score(history.encoded, shortlist.item_ids, time_ms))
        by_task = probabilities[:, version.task_names.index(task)]
        best = by_task.argsort(descending=True, stable=True)[: request.k].tolist()
        items = [
            RecommendedItem(
                item_id=int(shortlist.item_ids[row]),
                scores=dict(zip(version.task_names, probabilities[row].tolist(), strict=True)),
                similarity=float(shortlist.similarities[row]),
            )
            for row in best
        ]
    return RecommendAnswer(
        **_origin(request.user_id, time_ms, history, version), task=task, items=items
    )


def tokens_of(packed: npt.NDArray[np.void]) -> list[Token]:
    """TOKEN[T] as the API shows it."""
    return [Token(**dict(zip(TOKEN.names or (), row.tolist(), strict=True))) for row in packed]


def _history(
    request: RankRequest | RecommendRequest, version: ServedVersion, users: UserStates
) -> _History | None:
    if request.history is not None:
        return _given(request.user_id, request.history, version)
    state = users.get(request.user_id)
    if state is None:
        return None
    return _History(state.tokens, version.encode_user(request.user_id, state))


def _given(user_id: int, history: list[Token], version: ServedVersion) -> _History:
    rows = [(t.item_id, t.event_time_ms, t.price_minor, t.watch_ms, t.actions) for t in history]
    tokens = np.array(rows, TOKEN)
    try:
        check_tokens(user_id, tokens, num_targets=0)
    except CorruptSequence as error:
        raise RequestError(422, "history refused", detail=str(error)) from error
    if bool((np.diff(tokens["event_time_ms"]) < 0).any()):
        raise RequestError(
            422,
            "history out of order",
            detail=f"The history given for user {user_id} goes back in time.",
            hint="sort it by event_time_ms, oldest first",
        )
    return _History(tokens, version.encode(tokens))


def _time_ms(given: int | None, history: _History, version: ServedVersion) -> int:
    if given is not None:
        return given
    newest = int(history.tokens["event_time_ms"][-1]) if len(history.tokens) else 0
    return max(newest, version.manifest.watermark_ms, 0)


def _probabilities(logits: Tensor) -> Tensor:
    probabilities = torch.sigmoid(logits)
    if not bool(torch.isfinite(probabilities).all()):
        raise FreshetError("scores are not finite", detail="The live version overflowed.")
    return probabilities


def _check_limit(field: str, value: int, limit: int) -> None:
    if value > limit:
        raise RequestError(
            422,
            f"{field} above the limit",
            detail=f"{value} asked, {limit} allowed.",
            hint="split the request",
        )


def _origin(
    user_id: int, time_ms: int, history: _History, version: ServedVersion
) -> dict[str, object]:
    return {
        "version": version.manifest.version,
        "step": version.manifest.step,
        "positions": positions_of(version.manifest),
        "user_id": user_id,
        "time_ms": time_ms,
        "num_history_tokens": min(len(history.tokens), version.model.config.max_history),
    }
