"""Fixtures every room's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.broker import Broker, start_broker


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A real Kafka broker for one test module, on a free port, with an empty log."""
    directory: Path = tmp_path_factory.mktemp("broker")
    running = start_broker(directory)
    yield running
    running.stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick answers first: what starts JVMs runs last."""
    items.sort(key=lambda item: item.get_closest_marker("e2e") is not None)
