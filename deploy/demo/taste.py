"""One user's recommendations before and after a new action of his."""

from __future__ import annotations

from typing import Any

from deploy.demo.client import ServingClient
from deploy.demo.data import LONGEST_WAIT_MS
from deploy.demo.watch import Watch
from ingest.events import Event
from ingest.producer import EventProducer
from ingest.runtime.errors import FreshetError

_K = 5
_LEAST_TOKENS = 10
_SERVED_SECONDS = 120.0


def before_and_after(watch: Watch, bootstrap: str, action: str) -> dict[str, Any]:
    """Ask, let the user act on what he was shown first, wait until that is learned, ask again.

    Raises:
        FreshetError: no user with enough tokens is known, or the action was not served in time.
    """
    user_id = _somebody(watch)
    before = watch.client.recommend(user_id, _K)
    clock_ms = watch.sequences.account.clock_ms()
    item_id = before["items"][0]["item_id"]
    event = Event(
        event_id=f"demo-{user_id}-{clock_ms}",
        user_id=user_id,
        item_id=item_id,
        action=action,  # type: ignore[arg-type]
        event_time_ms=clock_ms + 1,
    )
    with EventProducer(bootstrap) as producer:
        producer.send(event)
        for after_ms in (LONGEST_WAIT_MS + 2, LONGEST_WAIT_MS + 3):
            producer.heartbeat_all(clock_ms + after_ms)
    watch.until_served(timeout_seconds=_SERVED_SECONDS)
    _require_seen(watch.client, user_id, item_id)
    after = watch.client.recommend(user_id, _K)
    return {
        "user_id": user_id,
        "action": {"action": action, "item_id": item_id},
        "task": before["task"],
        "before": _short(before),
        "after": _short(after),
    }


def _somebody(watch: Watch) -> int:
    """A user of the newest messages who has done enough to have a taste."""
    for user_id in reversed(watch.sequences.account.recent_users):
        if len(watch.client.user(user_id)) >= _LEAST_TOKENS:
            return user_id
    raise FreshetError(
        "no user to show", detail=f"None of the newest has {_LEAST_TOKENS} tokens.",
        hint="replay more events",
    )  # fmt: skip


def _require_seen(client: ServingClient, user_id: int, item_id: int) -> None:
    newest = client.user(user_id)[-1]["item_id"]
    if newest != item_id:
        raise FreshetError(
            "serving does not show the action",
            detail=f"User {user_id}'s newest token is item {newest}, his action was on {item_id}.",
        )


def _short(answer: dict[str, Any]) -> dict[str, Any]:
    task = answer["task"]
    return {
        "version": answer["version"],
        "items": [
            {"item_id": item["item_id"], "score": item["scores"][task]} for item in answer["items"]
        ],
    }
