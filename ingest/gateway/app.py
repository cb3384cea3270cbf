"""The routes: POST /events, /healthz, /metrics."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import ClientDisconnect

from ingest import metrics
from ingest.events import MAX_EVENT_BYTES, InvalidEvent, partition_key
from ingest.gateway.admission import Admission, Admitted, IdDictionary
from ingest.gateway.answers import EventAnswer, RequestRefused, answer
from ingest.gateway.bodies import records_of
from ingest.gateway.config import GatewayConfig
from ingest.gateway.delivery import Delivery, Outgoing
from ingest.gateway.quotas import HeldBytes, TokenBuckets
from ingest.producer import dead_letter_headers
from ingest.runtime.errors import BrokerError
from ingest.runtime.topics import EVENTS, EVENTS_DEAD

_MAX_PRODUCER_CHARS = 64
_BODY_SECONDS = 30


def create_app(
    config: GatewayConfig, delivery: Delivery, ids: IdDictionary | None = None
) -> FastAPI:
    """The application; see ingest/README.md for requests and answers."""

    @asynccontextmanager
    async def connected(_: FastAPI) -> AsyncIterator[None]:
        delivery.connect()
        yield
        await delivery.close()

    app = FastAPI(title="Freshet gateway", lifespan=connected)
    gateway = _Gateway(config, delivery, Admission(ids, config.remembered_events))

    @app.post("/events")
    async def events(request: Request) -> Response:
        try:
            response = await gateway.take(request)
        except RequestRefused as refused:
            response = refused.response()
        metrics.GATEWAY_REQUESTS.labels(str(response.status_code)).inc()
        return response

    @app.get("/healthz")
    async def healthz() -> Response:
        if not delivery.connected:
            return _away().response()
        return Response('{"status":"ready"}', media_type="application/json")

    @app.get("/metrics")
    async def scrape() -> Response:
        metrics.GATEWAY_HELD.set(gateway.held.num_bytes)
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return app


class _Gateway:
    def __init__(self, config: GatewayConfig, delivery: Delivery, admission: Admission) -> None:
        self.held = HeldBytes(config.max_held_bytes)
        self._max_body_bytes = config.max_body_bytes
        self._max_batch_events = config.max_batch_events
        self._buckets = TokenBuckets(config.quota_events_per_second or math.inf, config.quota_burst)
        self._delivery = delivery
        self._admission = admission

    async def take(self, request: Request) -> Response:
        """Answer a request once every record it gave rise to is confirmed."""
        if not self._delivery.connected:
            raise _away()
        with self.held.hold(self._announced_bytes(request)):
            body = await self._body(request)
            records = records_of(body, request.headers)
            if len(records) > self._max_batch_events:
                raise _too_large(f"{len(records)} events, {self._max_batch_events} allowed.")
            source = _source_of(request)
            self._buckets.take(source, len(records), time.monotonic())
            started = time.perf_counter()
            answers = await self._deliver(records, source)
            metrics.GATEWAY_SECONDS.observe(time.perf_counter() - started)
        for event in answers:
            metrics.GATEWAY_EVENTS.labels(event.verdict).inc()
        return answer(answers)

    def _announced_bytes(self, request: Request) -> int:
        """What to hold for a body: its announced length, or the most it may have."""
        length = request.headers.get("content-length")
        if length is None:
            return self._max_body_bytes
        if int(length) > self._max_body_bytes:
            raise _too_large(f"{length} bytes, {self._max_body_bytes} allowed.")
        return int(length)

    async def _body(self, request: Request) -> bytes:
        """The whole body; a client that stalls or leaves must not hold its share for ever."""
        body = bytearray()
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > self._max_body_bytes:
                        raise _too_large(f"More than {self._max_body_bytes} bytes.")
        except (TimeoutError, ClientDisconnect) as error:
            raise RequestRefused(
                408,
                "body did not arrive",
                f"{len(body)} bytes came within {_BODY_SECONDS} s.",
                "send again; nothing of this request was taken",
            ) from error
        return bytes(body)

    async def _deliver(self, records: list[bytes], source: str) -> list[EventAnswer]:
        answers: list[EventAnswer] = []
        outgoing: list[Outgoing] = []
        waiting: list[tuple[EventAnswer, Admitted | None]] = []
        for raw in records:
            try:
                event = self._admission.admit(raw)
            except InvalidEvent as error:
                verdict = EventAnswer(verdict="refused", reason=error.reason, detail=error.detail)
                outgoing.append(_dead_letter(source, raw, error))
                waiting.append((verdict, None))
            else:
                known = self._admission.is_known(event.key)
                verdict = EventAnswer(verdict="duplicate" if known else "accepted")
                if not known:
                    outgoing.append(Outgoing(EVENTS, partition_key(event.user_id), event.value))
                    waiting.append((verdict, event))
            answers.append(verdict)
        try:
            confirmed = await self._delivery.deliver(outgoing)
        except BrokerError as error:
            raise _away() from error
        for (verdict, taken), is_confirmed in zip(waiting, confirmed, strict=True):
            self._note(verdict, taken, is_confirmed)
        return answers

    def _note(self, verdict: EventAnswer, taken: Admitted | None, is_confirmed: bool) -> None:
        if not is_confirmed:
            verdict.verdict = "unconfirmed"
        elif taken is None:
            metrics.DEAD.labels(verdict.reason).inc()
        else:
            metrics.EVENTS_ACKNOWLEDGED.inc()
            self._admission.remember(taken.key)


def _dead_letter(source: str, raw: bytes, error: InvalidEvent) -> Outgoing:
    headers = dead_letter_headers(source, raw, error.reason, error.detail)
    return Outgoing(EVENTS_DEAD, source.encode(), raw[:MAX_EVENT_BYTES], headers)


def _source_of(request: Request) -> str:
    """Who sends: what X-Producer says, or the client's address."""
    name = request.headers.get("x-producer", "")[:_MAX_PRODUCER_CHARS]
    return f"gateway/{name or (request.client.host if request.client else 'unknown')}"


def _too_large(detail: str) -> RequestRefused:
    return RequestRefused(413, "body too large", detail, "split it; nothing of it was taken")


def _away() -> RequestRefused:
    return RequestRefused(
        503,
        "broker not reachable",
        "Kafka does not answer.",
        "send again later; nothing of this request was taken",
        retry_after_seconds=1,
    )
