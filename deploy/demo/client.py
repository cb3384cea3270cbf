"""What the demo asks of serving, and nothing more."""

from __future__ import annotations

from typing import Any

import httpx

from deploy.freshness import ServedVersion
from ingest.runtime.errors import FreshetError

_ALL_TOKENS = 100_000


class ServingClient:
    """A client of the serving API."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=30)

    def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **request)
        except httpx.HTTPError as error:
            raise FreshetError(
                "serving does not answer",
                detail=f"{method} {self.url}{path}: {error!r}.",
                hint="read its log",
                retriable=True,
            ) from error

    def _json(self, response: httpx.Response) -> Any:
        if response.status_code != httpx.codes.OK:
            raise FreshetError(
                "serving refused a request",
                detail=f"{response.request.url}: {response.status_code} {response.text}",
            )
        return response.json()

    def versions(self) -> list[ServedVersion]:
        """Every version served so far."""
        found = self._json(self._ask("GET", "/versions"))["versions"]
        return [
            ServedVersion(
                version=each["version"],
                positions={int(p): offset for p, offset in each["positions"].items()},
                loaded_at_ms=each["loaded_at_ms"],
            )
            for each in found
        ]

    def user(self, user_id: int) -> list[dict[str, Any]]:
        """A user's recent tokens as serving keeps them; empty when it knows none."""
        response = self._ask("GET", f"/users/{user_id}", params={"limit": _ALL_TOKENS})
        if response.status_code == httpx.codes.NOT_FOUND:
            return []
        return list(self._json(response)["tokens"])

    def rank(self, user_id: int, candidates: list[int], time_ms: int) -> dict[str, Any]:
        """Scores of candidates for a user."""
        body = {"user_id": user_id, "candidates": candidates, "time_ms": time_ms}
        return dict(self._json(self._ask("POST", "/rank", json=body)))

    def recommend(self, user_id: int, k: int) -> dict[str, Any]:
        """The k best items for a user."""
        return dict(self._json(self._ask("POST", "/recommend", json={"user_id": user_id, "k": k})))

    def close(self) -> None:
        """Drop the connections."""
        self._http.close()
