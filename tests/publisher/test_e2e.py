"""Publisher and server as processes beside a real broker: published, served, swapped, killed."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from deploy.broker import Broker
from deploy.processes import Child, await_condition
from ingest.events import partition_key
from ingest.runtime.kafka import create_topics, make_producer, read_all
from ingest.runtime.partitions import partition_of
from ingest.runtime.topics import SEQUENCES, SNAPSHOTS
from publisher.snapshots import Announcement, SnapshotStore, version_of
from tests.publisher.tiny import ITEM_IDS, targets_record, tiny_export, tiny_tokens

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[2]
NUM_PARTITIONS = 2
_names = itertools.count()


class World:
    """The processes of one test and what they share."""

    def __init__(self, bootstrap: str, root: Path) -> None:
        self.bootstrap = bootstrap
        self.root = root
        self.model_name = f"model{next(_names)}"
        self.store = SnapshotStore(root / "store", self.model_name)
        self.children: list[Child] = []

    def start(self, module: str, prefix: str, **settings: str) -> Child:
        env = {"FRESHET_BOOTSTRAP": self.bootstrap, f"{prefix}_STORE": str(self.root / "store")}
        env[f"{prefix}_MODEL_NAME"] = self.model_name
        env |= {f"{prefix}_{name.upper()}": value for name, value in settings.items()}
        log = self.root / f"{module}.{len(self.children)}.log"
        child = Child.start(module, [sys.executable, "-m", module], log=log, env=env, cwd=ROOT)
        self.children.append(child)
        return child

    def publisher(self) -> Child:
        return self.start(
            "publisher", "FRESHET_PUBLISHER", exports=str(self.root / "exports"), metrics_port="0"
        )

    def serving(self) -> tuple[Child, httpx.Client]:
        address = self.root / f"address{len(self.children)}"
        child = self.start(
            "publisher.serving", "FRESHET_SERVING", port="0", address_file=str(address)
        )
        await_condition(address.exists, child, timeout_seconds=120)
        return child, httpx.Client(base_url=address.read_text(), timeout=60)

    def announced(self) -> list[str]:
        return [
            msgspec.json.decode(record.value, type=Announcement).version
            for record in read_all(self.bootstrap, SNAPSHOTS)
            if record.key == self.model_name.encode()
        ]


@pytest.fixture
def world(broker: Broker, tmp_path: Path) -> Iterator[World]:
    create_topics(broker.bootstrap, NUM_PARTITIONS)
    world = World(broker.bootstrap, tmp_path)
    yield world
    for child in world.children:
        child.kill()


def until(condition: Callable[[], bool], child: Child) -> None:
    await_condition(condition, child, timeout_seconds=120)


def serves(client: httpx.Client, step: int) -> Callable[[], bool]:
    def is_live() -> bool:
        answer = client.get("/readyz")
        return answer.status_code == 200 and answer.json()["version"] == version_of(step)

    return is_live


def message_of(user_id: int, tokens: npt.NDArray[np.void], num_targets: int = 1) -> bytes:
    """A targets message that names the partition its key will put it into."""
    partition = partition_of(partition_key(user_id), NUM_PARTITIONS)
    return targets_record(user_id, tokens, partition=partition, num_targets=num_targets).value


def send(bootstrap: str, values: list[tuple[int, bytes]]) -> None:
    producer = make_producer(bootstrap)
    for user_id, value in values:
        producer.send(SEQUENCES, key=str(user_id).encode(), value=value)
    producer.flush()
    producer.close()


def test_from_a_hand_over_to_an_answer_and_to_the_next_version(world: World) -> None:
    tokens = tiny_tokens(0, 12)
    send(world.bootstrap, [(7, message_of(7, tokens)), (8, b"garbage")])
    server, client = world.serving()
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 503
    publisher = world.publisher()
    tiny_export(world.root / "exports", 1)
    until(serves(client, 1), server)
    body = {"user_id": 7, "candidates": ITEM_IDS[:20]}
    first = rank(client, body)
    assert first["version"] == version_of(1)
    assert first["num_history_tokens"] == 12

    newer = tiny_tokens(1, 15)
    send(world.bootstrap, [(7, message_of(7, newer, num_targets=3))])
    until(lambda: client.get("/users/7").json()["num_tokens"] == 15, server)
    assert rank(client, body)["scores"] != first["scores"]

    tiny_export(world.root / "exports", 2)
    until(serves(client, 2), server)
    versions = [record["version"] for record in client.get("/versions").json()["versions"]]
    assert versions == [version_of(1), version_of(2)]
    assert rank(client, body)["version"] == version_of(2)
    seen = set(newer["item_id"].tolist())
    items = client.post("/recommend", json={"user_id": 7, "k": 10}).json()["items"]
    assert len(items) == 10
    assert not seen & {item["item_id"] for item in items}
    assert "freshet_serving_corrupt_messages_total 1.0" in client.get("/metrics").text

    for child in (publisher, server):
        os.kill(child.pid, signal.SIGTERM)
        assert child.wait(60) == 0
    assert world.announced() == [version_of(1), version_of(2)]


def test_kills_of_publisher_and_server_lose_no_version_and_announce_none_twice(
    world: World,
) -> None:
    server, client = world.serving()
    for step in range(1, 5):
        publisher = world.publisher()
        tiny_export(world.root / "exports", step)
        # Killed anywhere between committing the version and having announced it.
        until(lambda step=step: version_of(step) in world.store.versions(), publisher)  # type: ignore[misc]
        publisher.kill()
    publisher = world.publisher()
    until(serves(client, 4), server)
    server.kill()
    server, client = world.serving()
    until(serves(client, 4), server)
    assert world.announced() == [version_of(step) for step in range(1, 5)]


def test_a_broker_out_of_reach_ends_the_server_with_one_message(tmp_path: Path) -> None:
    child = World("127.0.0.1:1", tmp_path).start("publisher.serving", "FRESHET_SERVING", port="0")
    assert child.wait(120) == 1
    log = child.log.read_text()
    assert "broker not reachable" in log
    assert "Traceback" not in log


def rank(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/rank", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())
