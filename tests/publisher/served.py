"""Publishing tiny versions, and a server over them without a broker."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from fastapi.testclient import TestClient

from publisher.service import Publisher, PublisherConfig
from publisher.serving.app import Serving, create_app
from publisher.serving.config import ServingConfig
from publisher.serving.live import Live
from publisher.serving.users import UserStates
from publisher.snapshots import Announcement, SnapshotStore
from tests.publisher.tiny import tiny_export


class Unheard:
    """An announcer nobody listens to."""

    def last_announced(self) -> str | None:
        return None

    def announce(self, announcement: Announcement) -> None:
        pass


def publish(root: Path, step: int, **changes: object) -> None:
    """Export and publish a tiny version below `root`/exports and `root`/store."""
    config = PublisherConfig(exports=root / "exports", store=root / "store")
    publisher = Publisher(config, Unheard())
    tiny_export(config.exports, step, **changes)
    assert publisher.advance() is not None
    publisher.close()


class Server:
    """The application in memory, its state within reach of the test."""

    def __init__(self, serving: Serving, client: TestClient) -> None:
        self.client = client
        self.live = serving.live
        self.users = serving.users


@contextmanager
def server(root: Path, *, caught_up: bool = True, **limits: int) -> Iterator[Server]:
    """A server over `root`/store; nothing is loaded until `live.load_latest`."""
    config = ServingConfig(store=root / "store", **limits)
    with ThreadPoolExecutor(2) as workers:
        serving = Serving(
            live=Live(SnapshotStore(config.store, config.model_name), config),
            users=UserStates(max_users=config.max_users, max_history=config.max_history),
            config=config,
            workers=workers,
            caught_up=lambda: caught_up,
        )
        with TestClient(create_app(serving), raise_server_exceptions=False) as client:
            yield Server(serving, client)
