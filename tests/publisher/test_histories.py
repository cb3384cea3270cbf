"""Serving's histories against those the features job tells the trainer, for any log and policy."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from hypothesis import example, given, settings

from features.assembler import PartitionAssembler
from features.config import FeaturesConfig
from features.offline import Record as EventRecord
from features.sequences import CONTEXT_BIT, Correction, Sequence, decode
from ingest.runtime.kafka import Record
from ingest.runtime.topics import SEQUENCES
from publisher.serving.users import UserStates
from tests.features.logs import CONFIG, CONFIGS, beat, event, logs


def without_context(tokens: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Context tokens reach serving with the next message."""
    return tokens[tokens["actions"] & CONTEXT_BIT == 0]


def messages(config: FeaturesConfig, log: list[EventRecord]) -> list[bytes]:
    assembler = PartitionAssembler(config, 0, 1)
    outputs = [output for record in log for output in assembler.process(*record)]
    return [output.value for output in outputs if output.topic == SEQUENCES]


LATE_PURCHASE: list[EventRecord] = [
    (at, 10_000, raw)
    for at, raw in enumerate(
        [
            event(1_000, id=1, item=1),
            beat(1_100),  # lets out item 1
            event(1_200, id=2, item=2),
            beat(1_235),
            event(1_210, id=3, item=1, action="purchase"),  # late: corrects item 1
            beat(1_400),  # lets out item 2, which opened before the purchase
            event(1_500, id=4, item=3),
            beat(1_700),  # lets out item 3, whose history shows it
        ]
    )
]
WITH_ATTRIBUTION = replace(CONFIG, correction_window_ms=5_000, attribution_ms=300)


@example(config=WITH_ATTRIBUTION, log=LATE_PURCHASE)
@settings(max_examples=60, deadline=None)
@given(config=CONFIGS, log=logs())
def test_serving_holds_the_history_of_the_next_message_and_every_late_bit_told_so_far(
    config: FeaturesConfig, log: list[EventRecord]
) -> None:
    users = UserStates(max_users=100, max_history=max(config.max_history, 1))
    late: defaultdict[tuple[int, int, int], int] = defaultdict(int)
    amends = config.correction_window_ms > 0 or config.attribution_ms > 0
    for offset, value in enumerate(messages(config, log)):
        message = decode(value)
        assert isinstance(message, Sequence | Correction)
        state = users.get(message.user_id)
        if isinstance(message, Correction):
            token = message.tokens[-1]
            late[message.user_id, token["item_id"], token["event_time_ms"]] |= message.changed
        elif state is not None:
            told = without_context(message.tokens[: len(message.tokens) - message.num_targets])
            kept = without_context(state.tokens)
            size = min(len(told), len(kept))
            told, kept = told[len(told) - size :], kept[len(kept) - size :]
            for name in ("item_id", "event_time_ms") + (
                () if amends else ("watch_ms", "price_minor")
            ):
                assert np.array_equal(kept[name], told[name]), name
            for mine, theirs in zip(kept, told, strict=True):
                told_late = late[message.user_id, theirs["item_id"], theirs["event_time_ms"]]
                assert mine["actions"] == theirs["actions"] | told_late
        users.apply([Record(0, offset, 0, None, value, ())])
