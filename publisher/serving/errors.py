"""What a client gets to see when a request is not answered."""

from __future__ import annotations

from ingest.runtime.errors import FreshetError


class RequestError(FreshetError):
    """A request that is not answered; `status` is the HTTP status."""

    def __init__(
        self, status: int, primary: str, *, detail: str, hint: str = "", retriable: bool = False
    ) -> None:
        super().__init__(primary, detail=detail, hint=hint, retriable=retriable)
        self.status = status


def not_ready(reason: str) -> RequestError:
    """503: nothing to serve yet, or no capacity now."""
    return RequestError(503, "not ready", detail=reason, hint="try again later", retriable=True)


def unknown_user(user_id: int) -> RequestError:
    """404: no event of the user is kept."""
    return RequestError(
        404,
        "unknown user",
        detail=f"No history of user {user_id} is kept.",
        hint='send "history": [{"item_id": 1, "event_time_ms": 2}, ...], or [] for a new user',
    )
