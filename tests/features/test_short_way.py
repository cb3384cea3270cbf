"""A token of one event leaves by a way of its own, made for speed: nothing may tell the two apart."""

from __future__ import annotations

from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from features.assembler import PartitionAssembler
from features.config import FeaturesConfig
from features.emission import cuts
from features.messages import MessageWriter
from features.offline import Record
from features.outputs import Output
from features.sequences import Progress
from features.stores import MemoryStore, Stores
from features.tokens import PendingEvent, join_events, leaves_alone
from tests.features.logs import CONFIG, CONFIGS, event, logs
from tests.features.test_assembler import flushed

Outcome = tuple[list[Output], Progress, bytes, list[dict[int, bytes]]]


def outcome(log: list[Record], config: FeaturesConfig) -> Outcome:
    """Outputs, progress and everything that is stored."""
    stores = [MemoryStore(), MemoryStore(), MemoryStore()]
    assembler = PartitionAssembler(config, 0, 1, Stores(*stores))
    outputs = [output for record in log for output in assembler.process(*record)]
    return outputs, assembler.progress(), assembler.save(), [store.found for store in stores]


@given(logs(), CONFIGS)
def test_the_short_way_and_the_long_one_lead_to_the_same_bytes(
    log: list[Record], config: FeaturesConfig
) -> None:
    short = outcome(flushed(log), config)
    with patch.object(MessageWriter, "is_plain", return_value=False):
        assert outcome(flushed(log), config) == short


@given(
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 9), st.integers(1, 4)), min_size=1),
    st.integers(0, 110),
)
def test_an_event_that_leaves_alone_is_the_one_token_of_the_one_cut(
    found: list[tuple[int, int, int]], before_ms: int
) -> None:
    events: list[PendingEvent] = sorted((*each, -1, 0, 2) for each in found)
    if leaves_alone(events, before_ms):
        tokens, next_ms = join_events(events, 30, before_ms)
        assert cuts(tokens, next_ms) == [1]
        assert (tokens[0].num_events, tokens[0].first_ms) == (1, events[0][0])


def test_a_click_alone_takes_the_short_way() -> None:
    log = flushed([(0, 1_000, event(1_000, id=1))])
    with patch.object(MessageWriter, "emit_plain", return_value=[]) as taken:
        outcome(log, CONFIG)
    assert taken.call_count == 1
