"""What the gateway answers: a verdict for each event, or an error for the whole request."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import msgspec
from fastapi import Response

Verdict = Literal["accepted", "duplicate", "refused", "unconfirmed"]


class EventAnswer(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What became of one event of a request.

    accepted: in `events`, confirmed. duplicate: accepted before. refused: no event, in `events.dead`
    under `reason`. unconfirmed: perhaps in the log, perhaps not; send it again with its event id.
    """

    verdict: Verdict
    reason: str = ""
    detail: str = ""


class RequestRefused(Exception):
    """Nothing of a request was taken."""

    def __init__(
        self, status: int, error: str, detail: str, hint: str, *, retry_after_seconds: int = 0
    ) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.detail = detail
        self.hint = hint
        self.retry_after_seconds = retry_after_seconds

    def response(self) -> Response:
        """As JSON {error, detail, hint}."""
        body = {"error": self.error, "detail": self.detail, "hint": self.hint}
        return _json(self.status, body, self.retry_after_seconds)


def answer(events: list[EventAnswer]) -> Response:
    """One answer for all events of a request, in their order.

    200 when all are in, 207 when some were refused, 400 when all were, 503 when some are unconfirmed.
    """
    counts = Counter(event.verdict for event in events)
    if counts["unconfirmed"]:
        status = 503
    elif counts["refused"]:
        status = 207 if counts["refused"] < len(events) else 400
    else:
        status = 200
    body = {**{verdict: counts[verdict] for verdict in Verdict.__args__}, "events": events}  # type: ignore[attr-defined]
    return _json(status, body, 1 if status == 503 else 0)


def _json(status: int, body: object, retry_after_seconds: int) -> Response:
    headers = {"Retry-After": str(retry_after_seconds)} if retry_after_seconds else None
    return Response(msgspec.json.encode(body), status, headers, "application/json")
