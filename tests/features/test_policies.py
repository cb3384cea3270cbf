"""Impressions, returns, sessions, context and lifetime: what each setting makes of the same events."""

from __future__ import annotations

from dataclasses import replace

import pytest

from features.config import FeaturesConfig
from features.context import context_token_id
from features.offline import Record
from features.sequences import CONTEXT_BIT, SESSION_START_BIT, TARGET_ONLY_BIT, Sequence
from ingest.runtime.errors import ConfigError
from tests.features.logs import CONFIG, beat, event, run
from tests.features.test_assembler import sequences

SHOWN: list[Record] = [
    (0, 1_000, event(1_000, id=1, item=1, action="impression")),
    (1, 1_000, event(1_001, id=2, item=2, action="impression")),
    (2, 1_002, event(1_005, id=3, item=2, action="click")),
    (3, 1_100, beat(1_100)),
    (4, 1_100, event(1_100, id=4, item=3)),
    (5, 2_000, beat(2_000)),
]
CONTEXT: list[Record] = [
    (0, 1_000, event(1_000, id=1, item=1, context={"plan": "free", "age": 7})),
    (1, 1_100, event(1_100, id=2, item=2, context={"plan": "free"})),
    (2, 1_200, event(1_200, id=3, item=3, context={"plan": "paid"})),
    (3, 1_300, event(1_300, id=4, item=4)),
    (4, 2_000, beat(2_000)),
]


def items(message: Sequence) -> list[int]:
    return message.tokens["item_id"].tolist()


@pytest.mark.parametrize(
    ("policy", "first", "second", "filtered"),
    [("history", [1, 2], [1, 2, 3], 0), ("targets", [1, 2], [2, 3], 0), ("folded", [2], [2, 3], 1)],
)
def test_an_impression_that_led_to_nothing_is_what_the_policy_says(
    policy: str, first: list[int], second: list[int], filtered: int
) -> None:
    outputs, assembler = run(SHOWN, replace(CONFIG, impressions=policy))
    shown, behind = sequences(outputs)
    assert (items(shown), items(behind)) == (first, second)
    assert behind.lifetime_tokens == len(second) - 1
    marked = (shown.tokens["actions"] & TARGET_ONLY_BIT != 0).tolist()
    assert marked == ([True, False] if policy == "targets" else [False] * len(first))
    counters = assembler.progress().counters
    assert (counters.filtered, counters.folded, counters.imbalance()) == (filtered, 1, 0)


@pytest.mark.parametrize(
    ("events", "price"),
    [
        ([("purchase", 9), ("return", 4)], 5),
        ([("purchase", 9), ("return", 40)], 0),
        ([("return", 4)], 0),
        ([("purchase", 9), ("return", 4), ("purchase", 6)], 6),
        ([("purchase", 9), ("return", None)], 9),
    ],
)
def test_a_return_subtracts_its_price(events: list[tuple[str, int | None]], price: int) -> None:
    log = [
        (at, 1_000, event(1_000 + at, id=at, action=action, price_minor=paid))
        for at, (action, paid) in enumerate(events)
    ]
    (message,) = sequences(run([*log, (9, 2_000, beat(2_000))])[0])
    assert message.tokens["price_minor"].tolist() == [price]


def test_a_session_starts_after_a_gap_between_tokens() -> None:
    times_ms = [1_000, 1_030, 1_075, 1_121]
    log = [(at, 2_000, event(time_ms, id=at, item=at)) for at, time_ms in enumerate(times_ms)]
    config = replace(CONFIG, join_window_ms=5, bound_ms=0)
    found = sequences(run([*log, (9, 3_000, beat(3_000))], config)[0])
    starts = {
        int(token["event_time_ms"]): bool(token["actions"] & SESSION_START_BIT)
        for message in found
        for token in message.tokens
    }
    assert starts == {1_000: True, 1_030: False, 1_075: False, 1_121: True}


def test_a_new_value_becomes_a_token_behind_the_message_that_brought_it() -> None:
    config = replace(CONFIG, context_features=("plan", "age"), max_targets=1, max_history=128)
    free, age, paid = (
        context_token_id(name, value)
        for name, value in [("plan", "free"), ("age", 7), ("plan", "paid")]
    )
    outputs, _ = run(CONTEXT, config)
    assert [items(message) for message in sequences(outputs)] == [
        [1],
        [1, free, age, 2],
        [1, free, age, 2, 3],
        [1, free, age, 2, 3, paid, 4],
    ]
    last = sequences(outputs)[-1]
    assert last.lifetime_tokens == 6
    assert [row[4] for row in last.tokens.tolist() if row[0] < 0] == [CONTEXT_BIT] * 3
    assert [items(message) for message in sequences(run(CONTEXT)[0])][-1] == [1, 2, 3, 4]


def test_a_value_that_arrives_out_of_order_is_taken_in_the_order_of_time() -> None:
    config = replace(CONFIG, context_features=("plan",), max_history=128)
    log = [
        (0, 1_000, event(1_000, id=1, item=1, context={"plan": "a"})),
        (1, 1_010, event(1_010, id=2, item=2, context={"plan": "a"})),
        (2, 1_010, event(1_005, id=3, item=3, context={"plan": "b"})),
        (3, 1_100, beat(1_100)),
        (4, 1_100, event(1_100, id=4, item=4)),
        (5, 2_000, beat(2_000)),
    ]
    behind = sequences(run(log, config)[0])[-1]
    a, b = context_token_id("plan", "a"), context_token_id("plan", "b")
    assert items(behind) == [1, a, 3, b, 2, a, 4]


def test_lifetime_counts_the_tokens_the_history_has_let_go() -> None:
    log = [(at, 9_000, event(1_000 + 100 * at, id=at, item=at)) for at in range(9)]
    last = sequences(run([*log, (9, 9_000, beat(9_000))])[0])[-1]
    assert last.lifetime_tokens + last.num_targets == 9


@pytest.mark.parametrize(
    "wrong",
    [
        {"impressions": "some"},
        {"session_gap_ms": 59_999},
        {"correction_window_ms": -1},
        {"attribution_ms": -1},
        {"max_amendments": 0},
        {"context_features": ("a", "a")},
        {"user_ttl_ms": 129_999},
        {"max_users": 0},
        {"cached_users": -1},
    ],
)
def test_a_setting_that_cannot_work_is_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        FeaturesConfig(**wrong)  # type: ignore[arg-type]
