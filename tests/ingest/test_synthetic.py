"""The synthetic world keeps what it promises."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ingest.adapters.faults import DUPLICATE_LAG_MS
from ingest.adapters.log import RecordLog
from ingest.adapters.synthetic import FOLD_MS, SyntheticConfig, SyntheticTruth, generate
from ingest.events import Event, Heartbeat, InvalidEvent, decode_record
from ingest.runtime.errors import ConfigError
from tests.ingest.logs import events_of, read_whole

FAULTY = SyntheticConfig(
    num_impressions=4_000, malformed=0.02, duplicates=0.03, late=0.01, disorder_ms=3_000
)


@pytest.fixture(scope="module")
def clean() -> tuple[RecordLog, SyntheticTruth]:
    return generate(SyntheticConfig(num_impressions=20_000))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    config = SyntheticConfig(num_impressions=500, late=0.1)
    first, again = (read_whole(generate(config)[0]) for _ in range(2))
    assert first == again
    assert read_whole(generate(SyntheticConfig(num_impressions=500, seed=2))[0]) != first


def test_a_clean_log_is_all_events_in_time_order_with_their_own_ids(
    clean: tuple[RecordLog, SyntheticTruth],
) -> None:
    log, truth = clean
    events = events_of(log)
    assert len(events) == truth.num_events == truth.num_records
    assert len({event.event_id for event in events}) == len(events)
    times = [event.event_time_ms for event in events]
    assert times == sorted(times) == read_whole(log).times_ms


def test_what_follows_an_impression_folds_into_it_and_nothing_else_does(
    clean: tuple[RecordLog, SyntheticTruth],
) -> None:
    log, truth = clean
    opened: dict[tuple[int, int], int] = {}
    tokens = folded = 0
    for event in events_of(log):
        pair = (event.user_id, event.item_id)
        if event.action == "impression":
            assert event.event_time_ms - opened.get(pair, 0) > FOLD_MS * 2
            opened[pair] = event.event_time_ms
            tokens += 1
        else:
            assert 0 < event.event_time_ms - opened[pair] <= FOLD_MS
            folded += 1
    assert (tokens, folded) == (truth.num_impressions, truth.num_folded)


def test_the_truth_tells_what_was_clicked(clean: tuple[RecordLog, SyntheticTruth]) -> None:
    log, truth = clean
    events = events_of(log)
    impressions = [e.event_id for e in events if e.action == "impression"]
    assert impressions == truth.impression_ids
    assert sum(event.action == "click" for event in events) == truth.clicked.sum()
    assert abs(truth.clicked.mean() - truth.probability.mean()) < 0.01


def test_the_floor_is_far_below_one_and_the_truth_reaches_it(
    clean: tuple[RecordLog, SyntheticTruth],
) -> None:
    _, truth = clean
    for last_fraction in (1.0, 0.2):
        assert 0.4 < truth.ne_floor(last_fraction) < 0.75
        assert abs(truth.ne_floor(last_fraction) - truth.oracle_ne(last_fraction)) < 0.03


def test_an_item_alone_tells_little_and_the_user_must_be_known(
    clean: tuple[RecordLog, SyntheticTruth],
) -> None:
    log, truth = clean
    items = [e.item_id for e in events_of(log) if e.action == "impression"]
    shown, clicks, loss = Counter[int](), Counter[int](), []
    base = truth.clicked.mean()
    for item, clicked in zip(items, truth.clicked.tolist(), strict=True):
        rate = (clicks[item] + 20 * base) / (shown[item] + 20)
        loss.append(-np.log(rate if clicked else 1 - rate))
        shown[item] += 1
        clicks[item] += clicked
    entropy = -(base * np.log(base) + (1 - base) * np.log(1 - base))
    assert np.mean(loss) / entropy > truth.ne_floor() + 0.25


def test_items_are_born_every_day(clean: tuple[RecordLog, SyntheticTruth]) -> None:
    seen: set[int] = set()
    born = Counter[int]()
    for event in events_of(clean[0]):
        if event.item_id not in seen:
            seen.add(event.item_id)
            born[event.event_time_ms // 86_400_000] += 1
    assert min(list(born.values())[:-1]) > 0
    assert len(born) >= SyntheticConfig().num_days


def test_faults_are_what_they_are_called_and_are_counted_exactly() -> None:
    log, truth = generate(FAULTY)
    rows = read_whole(log)
    seen: dict[str, int] = {}
    clock_ms = 0
    last_ms: dict[int, int] = {}
    found = Counter[str]()
    for key, value, arrival_ms in zip(rows.keys, rows.values, rows.times_ms, strict=True):
        try:
            event = decode_record(value)
        except InvalidEvent:
            found["malformed"] += 1
            continue
        assert isinstance(event, Event)
        assert key == b"%d" % event.user_id
        if event.event_id in seen:
            assert arrival_ms - seen[event.event_id] <= DUPLICATE_LAG_MS
            found["duplicates"] += 1
        elif event.event_time_ms < last_ms.get(event.user_id, 0) - 3_600_000:
            found["late"] += 1
        else:
            assert clock_ms - event.event_time_ms <= FAULTY.disorder_ms
            found["on time"] += 1
            last_ms[event.user_id] = max(last_ms.get(event.user_id, 0), event.event_time_ms)
        seen.setdefault(str(event.event_id), arrival_ms)
        clock_ms = max(clock_ms, event.event_time_ms)
    assert found == {
        "malformed": truth.faults.malformed,
        "duplicates": truth.faults.duplicates,
        "late": truth.faults.late,
        "on time": truth.num_events,
    }
    assert min(found.values()) > 50
    assert len(rows.values) == truth.num_records


def test_malformed_records_are_of_many_kinds_and_none_is_a_heartbeat() -> None:
    log, _ = generate(SyntheticConfig(num_impressions=500, malformed=0.1))
    reasons = Counter[str]()
    for value in read_whole(log).values:
        try:
            assert not isinstance(decode_record(value), Heartbeat)
        except InvalidEvent as error:
            reasons[error.reason] += 1
    assert set(reasons) == {"empty", "malformed_json", "unknown_action", "invalid_field"}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_users", 0),
        ("late", 1.5),
        ("malformed", -0.1),
        ("disorder_ms", 9_000),
        ("start_ms", -1),
    ],
)
def test_a_setting_that_cannot_work_is_named(setting: str, value: float) -> None:
    with pytest.raises(ConfigError, match=setting):
        SyntheticConfig(**{setting: value})  # type: ignore[arg-type]


def test_a_world_too_small_for_its_impressions_is_an_error() -> None:
    config = SyntheticConfig(
        num_impressions=5_000, num_users=1, num_items_at_start=1, num_items_born_a_day=1, num_days=1
    )
    with pytest.raises(ConfigError, match="too few users and items"):
        generate(config)
