"""The gateway's answers, with a stand-in for Kafka that only takes notes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request
from fastapi.testclient import TestClient

from ingest.adapters.ids import HashedIds
from ingest.events import MAX_EVENT_BYTES, decode_record
from ingest.gateway.admission import IdDictionary
from ingest.gateway.answers import RequestRefused
from ingest.gateway.app import create_app
from ingest.gateway.config import GatewayConfig
from ingest.gateway.delivery import Outgoing
from ingest.gateway.quotas import HeldBytes, TokenBuckets
from ingest.runtime.errors import BrokerError, ConfigError
from ingest.runtime.topics import EVENTS, EVENTS_DEAD

GOOD = {"event_id": "a", "user_id": 7, "item_id": 2, "action": "click", "event_time_ms": 3}


class Notes:
    """Confirms what it is given; `away` and `loses` say how it does not."""

    def __init__(self) -> None:
        self.connected = True
        self.away = False
        self.loses = 0
        self.sent: list[Outgoing] = []

    def connect(self) -> None:
        """Always there."""

    async def close(self) -> None:
        """Nothing to leave."""

    async def deliver(self, records: list[Outgoing]) -> list[bool]:
        if self.away:
            raise BrokerError("away")
        kept = len(records) - self.loses
        self.sent.extend(records[:kept])
        return [at < kept for at in range(len(records))]

    def values(self, topic: str) -> list[bytes]:
        return [record.value for record in self.sent if record.topic == topic]


@pytest.fixture
def notes() -> Notes:
    return Notes()


@contextmanager
def gateway(notes: Notes, ids: IdDictionary | None = None, **config: Any) -> Iterator[TestClient]:
    with TestClient(create_app(GatewayConfig(**config), notes, ids)) as client:  # type: ignore[arg-type]
        yield client


@pytest.fixture
def client(notes: Notes) -> Iterator[TestClient]:
    with gateway(notes) as made:
        yield made


def raw(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def verdicts(response: Any) -> list[str]:
    return [event["verdict"] for event in response.json()["events"]]


def test_one_event_goes_to_its_user_as_the_bytes_it_is(client: TestClient, notes: Notes) -> None:
    sent = b' {"colour":"green" ,' + raw()[1:] + b"\n"
    response = client.post("/events", content=sent)
    assert (response.status_code, verdicts(response)) == (200, ["accepted"])
    assert notes.sent == [Outgoing(EVENTS, b"7", sent.strip())]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"[" + raw() + b" , " + raw(event_id=5) + b"]"),
        ("application/x-ndjson", raw() + b"\n\n" + raw(event_id=5) + b"\r\n"),
        ("application/json; charset=utf-8", b"\n[" + raw() + b"," + raw(event_id=5) + b"]"),
    ],
)
def test_a_batch_keeps_its_order_and_bytes(
    client: TestClient, notes: Notes, content_type: str, body: bytes
) -> None:
    response = client.post("/events", content=body, headers={"content-type": content_type})
    assert (response.status_code, response.json()["accepted"]) == (200, 2)
    assert [value.strip() for value in notes.values(EVENTS)] == [raw(), raw(event_id=5)]


def test_each_event_of_a_batch_has_its_own_verdict_and_what_is_none_is_kept(
    client: TestClient, notes: Notes
) -> None:
    body = b"\n".join([raw(), b"{broken", raw(action="teleport"), b'{"heartbeat_ms":5}'])
    response = client.post(
        "/events",
        content=body,
        headers={"content-type": "application/x-ndjson", "x-producer": "app"},
    )
    assert response.status_code == 207
    assert verdicts(response) == ["accepted", "refused", "refused", "refused"]
    reasons = [event.get("reason") for event in response.json()["events"]]
    assert reasons == [None, "malformed_json", "unknown_action", "invalid_field"]
    dead = [record for record in notes.sent if record.topic == EVENTS_DEAD]
    assert [record.value for record in dead] == body.split(b"\n")[1:]
    assert dict(dead[1].headers or ())["reason"] == b"unknown_action"
    assert dict(dead[1].headers or ())["source"] == b"gateway/app"


def test_a_request_without_a_single_event_is_a_bad_request(client: TestClient) -> None:
    assert client.post("/events", content=b"{").status_code == 400
    assert client.post("/events", content=b"").status_code == 400
    assert client.post("/events", content=b"[]").status_code == 200


def test_a_record_too_large_for_a_message_is_cut_into_the_dead_letters(
    client: TestClient, notes: Notes
) -> None:
    sent = raw(context={"x": "y" * MAX_EVENT_BYTES})
    assert client.post("/events", content=sent).status_code == 400
    (dead,) = notes.sent
    assert dead.value == sent[:MAX_EVENT_BYTES]
    assert dict(dead.headers or ())["num_bytes"] == b"%d" % len(sent)


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b"[1,", 400),
        ({}, b"[" * 100_000, 400),
        ({"content-type": "text/plain"}, b"{}", 415),
        ({"content-encoding": "gzip"}, b"{}", 415),
        ({"content-type": "application/cloudevents+json"}, b"{}", 400),
        ({"ce-id": "1", "ce-time": "soon"}, b"{}", 400),
        ({"ce-id": "1", "ce-time": "2023-11-14T22:13:20"}, b"{}", 400),
        (
            {"content-type": "application/cloudevents+json"},
            b'{"specversion":"1.0","id":"1","time":"2023-11-14T22:13:20","data":{}}',
            400,
        ),
    ],
)
def test_a_body_that_cannot_be_taken_apart_is_refused_whole(
    client: TestClient, notes: Notes, headers: dict[str, str], body: bytes, status: int
) -> None:
    response = client.post("/events", content=body, headers=headers)
    assert response.status_code == status
    assert set(response.json()) == {"error", "detail", "hint"}
    assert notes.sent == []


def test_cloud_events_bring_their_id_and_time(client: TestClient, notes: Notes) -> None:
    data = {name: GOOD[name] for name in ("user_id", "item_id", "action")}
    envelope = {"specversion": "1.0", "id": "e1", "source": "/app", "type": "t",
                "time": "2023-11-14T22:13:20Z", "data": data}  # fmt: skip
    batch = [envelope, {**envelope, "id": "e2", "data": {**data, "event_id": "own"}}]
    for media_type, body in (("+json", envelope), ("-batch+json", batch)):
        content_type = f"application/cloudevents{media_type}"
        sent = client.post("/events", json=body, headers={"content-type": content_type})
        assert sent.status_code == 200
    binary = {"ce-id": "e%203", "ce-time": "2023-11-14T22:13:20Z", "ce-specversion": "1.0"}
    assert client.post("/events", json=data, headers=binary).status_code == 200
    found = [decode_record(value) for value in notes.values(EVENTS)]
    assert [event.event_id for event in found] == ["e1", "own", "e 3"]  # type: ignore[union-attr]
    assert {event.event_time_ms for event in found} == {1_700_000_000_000}  # type: ignore[union-attr]


def test_an_event_sent_again_is_answered_from_memory(client: TestClient, notes: Notes) -> None:
    client.post("/events", content=raw())
    response = client.post("/events", content=b"[" + raw() + b"," + raw(user_id=8) + b"]")
    assert (response.status_code, verdicts(response)) == (200, ["duplicate", "accepted"])
    assert len(notes.sent) == 2


def test_memory_of_events_is_bounded(notes: Notes) -> None:
    with gateway(notes, remembered_events=2) as client:
        for number in (1, 2, 3, 3, 2, 1):
            client.post("/events", content=raw(event_id=number))
    assert len(notes.sent) == 4


def test_what_is_not_confirmed_is_told_and_not_remembered(client: TestClient, notes: Notes) -> None:
    notes.loses = 1
    body = b"[" + raw() + b"," + raw(event_id=5) + b"]"
    response = client.post("/events", content=body)
    assert (response.status_code, verdicts(response)) == (503, ["accepted", "unconfirmed"])
    assert response.headers["retry-after"] == "1"
    notes.loses = 0
    assert verdicts(client.post("/events", content=body)) == ["duplicate", "accepted"]


def test_without_a_broker_nothing_is_taken(client: TestClient, notes: Notes) -> None:
    notes.away = True
    assert client.post("/events", content=raw()).status_code == 503
    notes.away, notes.connected = False, False
    for response in (client.post("/events", content=raw()), client.get("/healthz")):
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    notes.connected = True
    assert client.get("/healthz").status_code == 200
    assert verdicts(client.post("/events", content=raw())) == ["accepted"]


def test_a_body_above_the_bound_is_refused_with_and_without_its_length(notes: Notes) -> None:
    with gateway(notes, max_body_bytes=1_000) as client:
        assert client.post("/events", content=b"x" * 1_001).status_code == 413
        assert client.post("/events", content=iter([b"x" * 600] * 2)).status_code == 413
    assert notes.sent == []


def test_a_batch_of_more_events_than_allowed_is_refused_whole(notes: Notes) -> None:
    with gateway(notes, max_batch_events=2) as client:
        three = b"[" + b",".join(raw(event_id=number) for number in range(3)) + b"]"
        response = client.post("/events", content=three)
        assert (response.status_code, notes.sent) == (413, [])
        assert "3 events, 2 allowed" in response.json()["detail"]
        assert client.post("/events", content=b"[" + raw() + b",1]").status_code == 207


def test_a_body_that_stalls_gives_its_share_back(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stall(_: Request) -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(3_600)

    monkeypatch.setattr("ingest.gateway.app._BODY_SECONDS", 0.05)
    with gateway(notes) as client:
        with monkeypatch.context() as patched:
            patched.setattr(Request, "stream", stall)
            assert client.post("/events", content=raw()).status_code == 408
        assert "freshet_ingest_gateway_held_bytes 0.0" in client.get("/metrics").text


def test_a_producer_above_its_quota_waits_and_others_do_not(notes: Notes) -> None:
    with gateway(notes, quota_events_per_second=0.5, quota_burst=3) as client:
        three = b"[" + b",".join(raw(event_id=number) for number in range(3)) + b"]"
        codes = [
            client.post("/events", content=three, headers={"x-producer": name}).status_code
            for name in ("app", "app", "web")
        ]
        assert codes == [200, 429, 200]
        refused = client.post("/events", content=three, headers={"x-producer": "app"})
        assert refused.headers["retry-after"] == "6"
        four = three[:-1] + b"," + raw() + b"]"
        assert client.post("/events", content=four).status_code == 413


def test_a_bucket_fills_again_and_forgotten_ones_are_full() -> None:
    buckets = TokenBuckets(10.0, 10, max_producers=1)
    buckets.take("a", 10, 0.0)
    with pytest.raises(RequestRefused):
        buckets.take("a", 10, 0.9)
    buckets.take("a", 10, 1.0)
    buckets.take("b", 1, 1.0)
    buckets.take("a", 10, 1.0)


def test_held_bytes_are_bounded_and_given_back() -> None:
    held = HeldBytes(10)
    with held.hold(6), pytest.raises(RequestRefused) as refused, held.hold(5):
        pass
    assert (refused.value.status, held.num_bytes) == (429, 0)


def test_bounds_that_exclude_each_other_are_an_error() -> None:
    with pytest.raises(ConfigError, match="max_held_bytes"):
        GatewayConfig(max_body_bytes=10, max_held_bytes=5)


def test_text_ids_are_hashed_once_and_kept(notes: Notes, tmp_path: Path) -> None:
    path = tmp_path / "state" / "ids.jsonl"
    dictionary = IdDictionary(path, 10)
    with gateway(notes, dictionary) as client:
        sent = raw(user_id="anna", item_id="42")
        assert verdicts(client.post("/events", content=sent)) == ["accepted"]
        refused = client.post("/events", content=raw(user_id="bert", action="fly"))
        assert refused.status_code == 400
    (record,) = notes.sent[:1]
    event = decode_record(record.value)
    anna = HashedIds().id_of("anna")
    assert (event.user_id, event.item_id, record.key) == (anna, 42, b"%d" % anna)  # type: ignore[union-attr]
    dictionary.close()
    assert HashedIds.read(path).text_of(anna) == "anna"
    assert len(path.read_bytes().splitlines()) == 1
    with path.open("ab") as file:
        file.write(b'{"id":5,"te')
    again = IdDictionary(path, 1)
    with gateway(notes, again) as client:
        full = client.post("/events", content=raw(user_id="carl", event_id=9))
        assert "No room for another text id" in full.text
    again.close()
    assert len(HashedIds.read(path)) == 1


def test_a_second_gateway_on_the_same_dictionary_is_refused(tmp_path: Path) -> None:
    first = IdDictionary(tmp_path / "ids.jsonl", 10)
    with pytest.raises(ConfigError, match="directory in use"):
        IdDictionary(tmp_path / "ids.jsonl", 10)
    first.close()
    IdDictionary(tmp_path / "ids.jsonl", 10).close()


def test_text_ids_are_refused_without_a_dictionary(client: TestClient) -> None:
    response = client.post("/events", content=raw(user_id="anna"))
    assert (response.status_code, response.json()["events"][0]["reason"]) == (400, "invalid_field")


def test_metrics_count_requests_and_verdicts(client: TestClient) -> None:
    client.post("/events", content=b"[" + raw() + b",7]")
    text = client.get("/metrics").text
    assert 'freshet_ingest_gateway_requests_total{status="207"}' in text
    assert 'freshet_ingest_gateway_events_total{verdict="refused"}' in text
    assert "freshet_ingest_gateway_held_bytes 0.0" in text
