"""A stream of events with every fault the room knows, appended to a real broker."""

from __future__ import annotations

from random import Random

from ingest.events import Heartbeat, encode_record, partition_key
from ingest.runtime.kafka import make_producer
from ingest.runtime.partitions import partition_of
from tests.features.logs import event

JUNK = [b"\x00\x1e\xff\x01", None, b"", "\u0100{\u0101".encode(), b'{"action":"\xf0\x9f\x98\x80"}']
LARGEST = b"x" * 1_048_450  # with Kafka's frame, just what a producer may send
START_MS = 1_700_000_000_000


def feed(
    bootstrap: str,
    num_partitions: int,
    seed: int,
    num_events: int,
    *,
    num_users: int = 50,
    silent_partition: int = -1,
) -> None:
    """Append events over minutes of event time, then a heartbeat a partition.

    Nothing is appended to `silent_partition`. A later stream has a larger seed: its events are seconds, and at most 10^7, behind.
    """
    random = Random(seed)
    producer = make_producer(bootstrap)
    now_ms = START_MS + seed * 10_000_000
    for at in range(num_events):
        now_ms += random.randrange(800)
        user = random.randrange(num_users)
        fault = random.random()
        time_ms = now_ms - random.randrange(9_000) - (100_000 if fault < 0.02 else 0)
        value: bytes | None = event(
            time_ms, id=f"{seed}/{at}", user=user, item=random.randrange(20), watch_ms=at
        )
        if fault > 0.98:
            value = random.choice(JUNK)
        if at == 100:
            value = LARGEST
        key = partition_key(user)
        if partition_of(key, num_partitions) == silent_partition:
            continue
        for _ in range(2 if 0.1 < fault < 0.12 else 1):
            producer.send("events", key=key, value=value)
    for partition in {*range(num_partitions)} - {silent_partition}:
        beat = encode_record(Heartbeat(heartbeat_ms=now_ms + 50_000))
        producer.send("events", value=beat, partition=partition)
    producer.flush()
    producer.close()
