"""Small random logs of one partition, dense in what is hard: ties, disorder, overlap, junk."""

from __future__ import annotations

from hypothesis import strategies as st

from features.assembler import PartitionAssembler
from features.config import FeaturesConfig
from features.offline import Record
from features.outputs import Output
from ingest.events import Event, Heartbeat, encode_record

CONFIG = FeaturesConfig(
    bound_ms=20,
    join_window_ms=30,
    emit_after_ms=40,
    max_targets=3,
    max_pending=7,
    max_history=5,
    session_gap_ms=45,
    correction_window_ms=0,
    long_watch_ms=10,
    remembered_ids=4,
    future_bound_ms=50,
)


@st.composite
def configs(draw: st.DrawFn, max_amendments: int = 1_000) -> FeaturesConfig:
    """Every policy in every company, with windows as short as the logs are."""
    pick = lambda *values: draw(st.sampled_from(values))  # noqa: E731
    bound_ms, join_window_ms, max_targets = pick(0, 9, 20, 50), pick(0, 30, 100), pick(1, 2, 3, 16)
    emit_after_ms = join_window_ms + pick(0, 10, 170)
    return FeaturesConfig(
        bound_ms=bound_ms,
        join_window_ms=join_window_ms,
        emit_after_ms=emit_after_ms,
        max_targets=max_targets,
        max_pending=max_targets + pick(0, 4, 1_000),
        max_history=pick(0, 1, 5, 128),
        impressions=pick("history", "targets", "folded"),
        session_gap_ms=join_window_ms + pick(0, 20),
        correction_window_ms=pick(0, 60, 500, 5_000),
        attribution_ms=pick(0, 60, 300),
        max_amendments=max_amendments,
        context_features=pick((), ("device",), ("device", "plan")),
        user_ttl_ms=bound_ms + join_window_ms + emit_after_ms + pick(1, 100, 10_000),
        cached_users=pick(0, 1, 100),
        long_watch_ms=10,
        remembered_ids=4,
        future_bound_ms=50,
    )


CONFIGS = configs()


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
                max(now_ms - draw(st.integers(0, 150 if kind < 7 else 30)) + far_ms, 0),
                id=draw(st.integers(0, 80)) if kind == 3 else at + 100,
                user=draw(st.integers(1, 3)),
                item=draw(st.integers(1, 4)),
                action=draw(st.sampled_from(["impression", "click", "purchase", "return"])),
                context=draw(
                    st.sampled_from([None, {}, {"device": 1}, {"device": 2, "plan": "a"}])
                ),
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
