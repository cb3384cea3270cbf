"""The bodies of requests and answers."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_INT64_MAX = 2**63 - 1
_UINT32_MAX = 2**32 - 1

Id = Annotated[int, Field(strict=True, ge=0, le=_INT64_MAX)]
TimeMs = Annotated[int, Field(strict=True, ge=0, le=_INT64_MAX)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Token(_Body):
    """One thing a user did; `actions` are the bits of `features.sequences`, times UTC.

    Where the bit `context` is set it is no item but a feature of the user; its id is negative.
    """

    item_id: Annotated[int, Field(strict=True, ge=-_INT64_MAX, le=_INT64_MAX)]
    event_time_ms: TimeMs
    actions: Annotated[int, Field(strict=True, ge=0, le=_UINT32_MAX)] = 0
    watch_ms: Annotated[int, Field(strict=True, ge=0, le=_UINT32_MAX)] = 0
    price_minor: Annotated[int, Field(strict=True, ge=0, le=_INT64_MAX)] = 0


class RankRequest(_Body):
    """Score `candidates` for a user.

    `history`, in time order, takes the place of the user's kept one. `time_ms` is when the
    candidates are shown; default is the newest token's time or the version's watermark, whichever
    is later. It does not hide tokens.
    """

    user_id: Id
    candidates: list[Id] = Field(min_length=1)
    time_ms: TimeMs | None = None
    history: list[Token] | None = None


class RecommendRequest(_Body):
    """The best `k` items for a user, sorted by `task` (default: the model's first)."""

    user_id: Id
    k: Annotated[int, Field(strict=True, ge=1)] = 10
    task: str | None = None
    exclude_seen: bool = True
    time_ms: TimeMs | None = None
    history: list[Token] | None = None


class Answer(BaseModel):
    """What every answer says of where it comes from.

    `positions` maps a `sequences` partition to the first offset the version has not learned from;
    `num_history_tokens` is how much of the user's history counted.
    """

    version: str
    step: int
    positions: dict[int, int]
    user_id: int
    time_ms: int
    num_history_tokens: int


class RankAnswer(Answer):
    """Probability of each task for each candidate, in the request's order.

    `num_unknown` candidates have no row of their own and were scored by the fallback row.
    """

    candidates: list[int]
    scores: dict[str, list[float]]
    num_unknown: int


class RecommendedItem(BaseModel):
    """An item with its probabilities and its cosine to the user in retrieval."""

    item_id: int
    scores: dict[str, float]
    similarity: float


class RecommendAnswer(Answer):
    """Items, best first by `task`."""

    task: str
    items: list[RecommendedItem]


class UserAnswer(BaseModel):
    """A user's kept tokens, oldest first, and the message of `sequences` they came with."""

    user_id: int
    partition: int
    offset: int
    num_tokens: int
    tokens: list[Token]


class ErrorAnswer(BaseModel):
    """Why a request was not answered."""

    error: str
    detail: str
    hint: str
