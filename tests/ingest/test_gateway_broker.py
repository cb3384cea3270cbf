"""The gateway over HTTP against a real broker: confirmed means in the log, also over its death."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

from deploy.broker import Broker, start_broker
from ingest.gateway.app import create_app
from ingest.gateway.config import GatewayConfig
from ingest.gateway.delivery import Delivery
from ingest.runtime.kafka import create_topics, read_all
from ingest.runtime.partitions import partition_of
from ingest.runtime.topics import EVENTS, EVENTS_DEAD

pytestmark = pytest.mark.e2e
NUM_PARTITIONS = 3


@contextmanager
def serving(bootstrap: str, *, timeout_seconds: float = 20) -> Iterator[httpx.Client]:
    delivery = Delivery(bootstrap, timeout_seconds=timeout_seconds, retry_seconds=0.2)
    app = create_app(GatewayConfig(), delivery)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        port = listener.getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            await_answer(lambda: client.get("/healthz").status_code == 200)
            yield client
    finally:
        server.should_exit = True
        thread.join()


def await_answer(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def event(number: int) -> dict[str, object]:
    return {"event_id": number, "user_id": number % 10, "item_id": 1, "action": "click",
            "event_time_ms": number, "colour": "green"}  # fmt: skip


@pytest.fixture(scope="module")
def bootstrap(broker: Broker) -> str:
    create_topics(broker.bootstrap, NUM_PARTITIONS)
    return broker.bootstrap


def test_what_is_answered_is_in_the_log_as_it_was_sent(bootstrap: str) -> None:
    sent = [json.dumps(event(number)).encode() for number in range(1_000)]
    with serving(bootstrap) as client:
        body = b"\n".join([*sent, b"{broken"])
        answer = client.post(
            "/events", content=body, headers={"content-type": "application/x-ndjson"}
        )
        assert answer.status_code == 207
        assert (answer.json()["accepted"], answer.json()["refused"]) == (1_000, 1)
        records = read_all(bootstrap, EVENTS)
        (letter,) = read_all(bootstrap, EVENTS_DEAD)
    assert sorted(record.value for record in records) == sorted(sent)
    assert all(r.partition == partition_of(r.key or b"", NUM_PARTITIONS) for r in records)
    for user in range(10):
        mine = [json.loads(r.value)["event_id"] for r in records if r.key == b"%d" % user]
        assert mine == sorted(mine)
    assert (letter.value, dict(letter.headers)["reason"]) == (b"{broken", b"malformed_json")


def test_nothing_confirmed_is_lost_when_the_broker_dies_and_the_gateway_comes_back(
    tmp_path: Path,
) -> None:
    broker = start_broker(tmp_path / "broker")
    create_topics(broker.bootstrap, 2)
    port = int(broker.bootstrap.rpartition(":")[2])
    accepted: list[int] = []
    statuses: list[int] = []

    def send(client: httpx.Client, number: int) -> int:
        status = client.post("/events", json=event(number)).status_code
        statuses.append(status)
        if status == 200:
            accepted.append(number)
        return status

    with serving(broker.bootstrap, timeout_seconds=2) as client:
        for number in range(50):
            send(client, number)
        broker.child.kill()
        assert send(client, 100) == 503
        assert client.get("/healthz").status_code == 503
        assert send(client, 101) == 503
        (tmp_path / "broker" / "broker.log").unlink()  # its old lines say that it is ready
        revived = start_broker(tmp_path / "broker", port)
        try:
            await_answer(lambda: send(client, 100) == 200)
            send(client, 102)
            records = read_all(revived.bootstrap, EVENTS)
        finally:
            revived.stop()
    found = [json.loads(record.value)["event_id"] for record in records]
    assert set(found) >= set(accepted) == {*range(50), 100, 102}
    assert set(statuses) == {200, 503}
