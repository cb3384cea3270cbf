"""Every error as JSON {error, detail, hint}; a stack trace stays in the server's log."""

from __future__ import annotations

from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ingest.runtime.errors import FreshetError
from publisher.serving.errors import RequestError

_log = structlog.get_logger()


def error_answer(status: int, error: str, detail: str, hint: str) -> Response:
    """One error answer; a 503 asks the client to come back."""
    retry = {"Retry-After": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return JSONResponse({"error": error, "detail": detail, "hint": hint}, status, headers=retry)


def add_error_answers(app: FastAPI) -> None:
    """Give every kind of failure its answer."""

    @app.exception_handler(RequestError)
    async def refused(_request: Request, error: RequestError) -> Response:
        return error_answer(error.status, error.primary, error.detail, error.hint)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        return _invalid(error)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        detail = f"{request.method} {request.url.path}."
        return error_answer(
            error.status_code, str(error.detail).lower(), detail, "GET /docs lists all"
        )

    @app.exception_handler(FreshetError)
    async def failed(request: Request, error: FreshetError) -> Response:
        _log.error(error.primary, detail=error.detail, path=request.url.path)
        return error_answer(500, error.primary, error.detail, error.hint)

    @app.exception_handler(Exception)
    async def unexpected(_request: Request, _error: Exception) -> Response:
        return error_answer(500, "internal error", "The server's log has the cause.", "report it")


def _invalid(error: RequestValidationError) -> Response:
    problems = error.errors()
    first = problems[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", first["msg"])
        return error_answer(400, "malformed JSON", f"{reason}.", "send one JSON object")
    place = ".".join(str(part) for part in first["loc"][1:]) or "body"
    more = f" And {len(problems) - 1} more." if len(problems) > 1 else ""
    detail = f"{place}: {first['msg']}.{more}"
    return error_answer(422, "request refused", detail, "GET /docs shows every field")
