"""The HTTP API: routes, error answers, metrics. Scoring happens in worker threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import FastAPI, Path, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from publisher.serving import answers, metrics
from publisher.serving.config import ServingConfig
from publisher.serving.error_answers import add_error_answers, error_answer
from publisher.serving.errors import not_ready, unknown_user
from publisher.serving.live import Live
from publisher.serving.schemas import (
    ErrorAnswer,
    RankAnswer,
    RankRequest,
    RecommendAnswer,
    RecommendRequest,
    UserAnswer,
)
from publisher.serving.users import UserStates

_INT64_MAX = 2**63 - 1
T = TypeVar("T")
Next = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What the routes answer from; `caught_up` says whether histories reach the log's end."""

    live: Live
    users: UserStates
    config: ServingConfig
    workers: Executor
    caught_up: Callable[[], bool]


class _Gate:
    """Runs scoring in the workers; above `max_waiting` requests it says no at once."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._waiting = 0

    async def run(self, work: Callable[[], T]) -> T:
        limit = self._serving.config.max_waiting
        if self._waiting >= limit:
            raise not_ready(f"{limit} requests are waiting already.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._serving.workers, work)
        finally:
            self._waiting -= 1


def create_app(serving: Serving) -> FastAPI:
    """The application; see publisher/README.md for the shapes."""
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorAnswer} for status in (400, 404, 413, 422, 503)
    }
    app = FastAPI(title="Freshet serving", responses=errors)
    _add_guards(app, serving.config)
    _add_scoring(app, serving)
    _add_state(app, serving)
    add_error_answers(app)
    return app


def _add_scoring(app: FastAPI, serving: Serving) -> None:
    gate = _Gate(serving)

    @app.post("/rank")
    async def rank(request: RankRequest) -> RankAnswer:
        version = serving.live.version()
        return await gate.run(lambda: answers.rank(request, version, serving.users, serving.config))

    @app.post("/recommend")
    async def recommend(request: RecommendRequest) -> RecommendAnswer:
        version = serving.live.version()
        return await gate.run(
            lambda: answers.recommend(request, version, serving.users, serving.config)
        )


def _add_state(app: FastAPI, serving: Serving) -> None:
    @app.get("/users/{user_id}")
    async def user(
        user_id: Annotated[int, Path(ge=0, le=_INT64_MAX)],
        limit: Annotated[int, Query(ge=1)] = 50,
    ) -> UserAnswer:
        state = serving.users.get(user_id)
        if state is None:
            raise unknown_user(user_id)
        return UserAnswer(
            user_id=user_id,
            partition=state.partition,
            offset=state.newest_offset,
            num_tokens=len(state.tokens),
            tokens=answers.tokens_of(state.tokens[-limit:]),
        )

    @app.get("/version")
    async def version() -> Response:
        return _json(serving.live.newest_record())

    @app.get("/versions")
    async def versions() -> Response:
        return _json({"versions": serving.live.records()})

    @app.get("/livez")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        live = serving.live.version()
        if not serving.caught_up():
            raise not_ready("Histories are still being read from the log.")
        return {"status": "ready", "version": live.manifest.version}

    @app.get("/metrics")
    async def scrape() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _add_guards(app: FastAPI, config: ServingConfig) -> None:
    @app.middleware("http")
    async def measure(request: Request, call_next: Next) -> Response:
        started = time.perf_counter()
        status = HTTPStatus.INTERNAL_SERVER_ERROR.value
        try:
            response = _refused_body(request, config.max_body_bytes) or await call_next(request)
            status = response.status_code
            return response
        finally:
            route = getattr(request.scope.get("route"), "path", "other")
            seconds = time.perf_counter() - started
            metrics.REQUEST_SECONDS.labels(route, str(status)).observe(seconds)


def _refused_body(request: Request, limit: int) -> Response | None:
    if request.method != "POST":
        return None
    length = request.headers.get("content-length")
    if length is None:
        hint = "send a Content-Length header"
        return error_answer(
            411, "body of unknown length", "The request has no Content-Length.", hint
        )
    if int(length) > limit:
        return error_answer(
            413, "body too large", f"{length} bytes sent, {limit} allowed.", "split the request"
        )
    return None


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
