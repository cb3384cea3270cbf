"""How long after the earliest possible moment a reader has a message, in milliseconds."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from random import Random

from deploy.broker import start_broker
from deploy.processes import await_condition
from features.config import FeaturesConfig
from features.sequences import Sequence, decode
from ingest.events import Event
from ingest.producer import EventProducer
from ingest.runtime.kafka import TopicReader, create_topics
from ingest.runtime.topics import SEQUENCES
from tests.features.job_runs import Follower, start_job

NUM_PARTITIONS = 4
EVENTS_PER_SECOND = 500
CONFIG = FeaturesConfig(
    bound_ms=500, join_window_ms=500, emit_after_ms=1_000, checkpoint_interval_seconds=1.0
)
_START_SECONDS = 300.0


def delays_ms(seconds: float) -> list[float]:
    """Send events as they happen; of every message, the time it was read less the time it was due.

    A message is due when the clock passes its oldest target by `emit_after` and the bound. The
    first `seconds` after the job has answered do not count: it is then still compiling.
    """
    with tempfile.TemporaryDirectory(prefix="freshet-delay-") as name:
        directory = Path(name)
        broker = start_broker(directory / "broker")
        job = None
        stop = threading.Event()
        sender = threading.Thread(target=_send, args=(broker.bootstrap, stop))
        try:
            create_topics(broker.bootstrap, NUM_PARTITIONS)
            job = start_job(broker.bootstrap, directory / "job", CONFIG)
            with EventProducer(broker.bootstrap) as producer:
                producer.heartbeat_all(0)
            answered = Follower(broker.bootstrap).caught_up
            await_condition(answered, job, timeout_seconds=_START_SECONDS)
            sender.start()
            return _read(broker.bootstrap, seconds)
        finally:
            stop.set()
            if sender.is_alive():
                sender.join()
            for child in (job, broker.child):
                if child is not None:
                    child.kill()


def _send(bootstrap: str, stop: threading.Event) -> None:
    random = Random(1)
    with EventProducer(bootstrap, linger_ms=0) as producer:
        started, sent = time.monotonic(), 0
        while not stop.wait(max(0.0, started + sent / EVENTS_PER_SECOND - time.monotonic())):
            now_ms = int(time.time() * 1000)
            user, item = random.randrange(5_000), random.randrange(1_000)
            producer.send(
                Event(
                    event_id=sent, user_id=user, item_id=item, action="click", event_time_ms=now_ms
                )
            )
            sent += 1


def _read(bootstrap: str, seconds: float) -> list[float]:
    reader = TopicReader(bootstrap, SEQUENCES, dict.fromkeys(range(NUM_PARTITIONS), 0))
    found: list[float] = []
    started = time.monotonic()
    while time.monotonic() < started + 2 * seconds:
        records = reader.poll(0.02)
        now_ms = time.time() * 1000
        if time.monotonic() < started + seconds:
            continue
        for record in records:
            message = decode(record.value)
            if isinstance(message, Sequence):
                oldest_ms = int(message.tokens["event_time_ms"][-message.num_targets])
                found.append(now_ms - oldest_ms - CONFIG.emit_after_ms - CONFIG.bound_ms)
    reader.close()
    return found
