"""Small random logs of one partition, dense in what is hard: ties, disorder, overlap, junk."""

from __future__ import annotations

from hypothesis import strategies as st

from features.assembler import Output, PartitionAssembler
from features.config import FeaturesConfig
from features.offline import Record
from ingest.events import Event, Heartbeat, encode_record

CONFIG = FeaturesConfig(
    bound_ms=20,
    join_window_ms=30,
    emit_after_ms=40,
    max_targets=3,
    max_pending=7,
    max_history=5,
    long_watch_ms=10,
    remembered_ids=4,
    future_bound_ms=50,
)
CONFIGS = st.sampled_from(
    [
        CONFIG,
        FeaturesConfig(bound_ms=0, join_window_ms=0, emit_after_ms=0, max_targets=1, max_pending=1),
        FeaturesConfig(bound_ms=50, join_window_ms=30, emit_after_ms=200, max_pending=1_000),
        FeaturesConfig(bound_ms=50, join_window_ms=30, emit_after_ms=40, max_pending=1_000),
        FeaturesConfig(
            bound_ms=9, join_window_ms=100, emit_after_ms=100, max_targets=2, max_history=0
        ),
    ]
)


def event(time_ms: int, *, id: int | str, user: int = 1, item: int = 1, **more: object) -> bytes:  # noqa: A002
    """An event's bytes."""
    fields = {"action": "click", "event_id": id, "user_id": user, "item_id": item, **more}
    return encode_record(Event(event_time_ms=time_ms, **fields))  # type: ignore[arg-type]


def beat(time_ms: int) -> bytes:
    """A heartbeat's bytes."""
    return encode_record(Heartbeat(heartbeat_ms=time_ms))


@st.composite
def logs(draw: st.DrawFn, max_size: int = 60) -> list[Record]:
    """Records whose times wander forward by steps, with disorder, duplicates, junk and heartbeats."""
    log: list[Record] = []
    now_ms = 1_000
    for at in range(draw(st.integers(0, max_size))):
        now_ms += draw(st.sampled_from([0, 0, 1, 3, 10, 10, 45]))
        kind = draw(st.integers(0, 19))
        if kind == 0:
            raw = draw(st.sampled_from([b"", b"\x00", b"\xff{", b'{"event_id":1}']))
        elif kind == 1:
            raw = beat(now_ms + draw(st.sampled_from([0, 30, 500])))
        else:
            far_ms = 500 if kind == 2 else 0
            raw = event(
                max(now_ms - draw(st.integers(0, 30)) + far_ms, 0),
                id=draw(st.integers(0, 80)) if kind == 3 else at + 100,
                user=draw(st.integers(1, 3)),
                item=draw(st.integers(1, 4)),
                action=draw(st.sampled_from(["impression", "click", "purchase"])),
                watch_ms=draw(st.sampled_from([None, 5, 20])),
                price_minor=draw(st.sampled_from([None, 0, 7])),
            )
        log.append((at * 2, now_ms, raw))
    return log


def run(
    log: list[Record], config: FeaturesConfig = CONFIG
) -> tuple[list[Output], PartitionAssembler]:
    """All outputs of a log, and the assembler after it."""
    assembler = PartitionAssembler(config, 0, 1)
    outputs = [output for record in log for output in assembler.process(*record)]
    return outputs, assembler
