"""Parquet logs become events in time order; rows that cannot are refused one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingest.adapters.ids import HashedIds
from ingest.adapters.log import LogError
from ingest.adapters.parquet import open_parquet
from ingest.events import MAX_TIME_MS
from tests.ingest.logs import events_of, read_whole

DATA = Path(__file__).parents[3] / "shared" / "data"


def write(path: Path, **columns: Any) -> Path:
    table: dict[str, Any] = {
        "user_id": ["1", "2", "3"],
        "item_id": [7, 8, 9],
        "action": ["click", "watch", "purchase"],
        "timestamp_ms": [30, 10, 20],
        **columns,
    }
    pq.write_table(pa.table({name: column for name, column in table.items() if column}), path)
    return path


def test_rows_come_in_time_order_with_ids_of_their_place_in_the_file(tmp_path: Path) -> None:
    log = open_parquet(write(tmp_path / "some.parquet"))
    assert [(e.event_id, e.user_id, e.event_time_ms) for e in events_of(log)] == [
        (f"{log.name}-1", 2, 10),
        (f"{log.name}-2", 3, 20),
        (f"{log.name}-0", 1, 30),
    ]
    assert read_whole(log).keys == [b"2", b"3", b"1"]


def test_the_name_of_a_file_goes_with_its_content(tmp_path: Path) -> None:
    name = open_parquet(write(tmp_path / "some.parquet")).name
    assert name.startswith("some-")
    assert name != open_parquet(write(tmp_path / "some.parquet", item_id=[1, 2, 3])).name


def test_the_first_rows_without_a_time_take_the_first_there_is(tmp_path: Path) -> None:
    log = open_parquet(write(tmp_path / "some.parquet", timestamp_ms=[None, None, 20]))
    assert read_whole(log).times_ms == [20, 20, 20]


def test_ties_keep_the_order_of_the_file(tmp_path: Path) -> None:
    log = open_parquet(write(tmp_path / "ties.parquet", timestamp_ms=[5, 5, 5]))
    assert [event.user_id for event in events_of(log)] == [1, 2, 3]


def test_a_part_of_a_log_is_the_same_rows(tmp_path: Path) -> None:
    log = open_parquet(write(tmp_path / "some.parquet"))
    whole = read_whole(log)
    parts = list(log.read(1, 3, rows_per_run=1))
    assert [rows.values[0] for rows in parts] == whole.values[1:]


def test_a_value_means_what_its_action_says(tmp_path: Path) -> None:
    path = write(
        tmp_path / "v.parquet",
        user_id=[1] * 5,
        item_id=[1] * 5,
        action=["watch", "purchase", "return", "rate", "click"],
        timestamp_ms=[1, 2, 3, 4, 5],
        value=pa.array([1.5, 2.549999952316284, 0.0, 4.0, 9.0], pa.float32()),
    )
    watch, purchase, back, rate, click = events_of(open_parquet(path))
    assert (watch.watch_ms, purchase.price_minor, back.price_minor) == (1500, 255, 0)
    assert rate.context == {"rating": 4.0}
    assert (click.watch_ms, click.price_minor, click.context) == (None, None, None)


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_value_that_is_not_there_is_left_out(tmp_path: Path, value: float | None) -> None:
    path = write(tmp_path / "n.parquet", value=pa.array([value] * 3, pa.float64()))
    assert all(
        e.watch_ms is e.price_minor is e.context is None for e in events_of(open_parquet(path))
    )


def test_text_ids_are_hashed_and_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", user_id=["anna", "-5", "12"], timestamp_ms=[1, 2, 3])
    log = open_parquet(path)
    expected = HashedIds()
    users = [expected.id_of(text) for text in ("anna", "-5", "12")]
    assert [event.user_id for event in events_of(log)] == users
    assert users[2] == 12
    assert len(log.ids) == 2


def test_a_negative_number_has_the_id_of_its_text(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", item_id=[-5, 8, 9], timestamp_ms=[1, 2, 3])
    assert events_of(open_parquet(path))[0].item_id == HashedIds().id_of("-5")


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"user_id": ["1", None, "3"]}, "invalid_field"),
        ({"item_id": pa.array([7, None, 9], pa.int64())}, "invalid_field"),
        ({"item_id": [7.0, float("nan"), 9.0]}, "invalid_field"),
        ({"item_id": [7.0, 8.5, 9.0]}, "invalid_field"),
        ({"timestamp_ms": [30.0, float("nan"), 40.0]}, "invalid_field"),
        ({"timestamp_ms": pa.array([30, None, 40], pa.int64())}, "invalid_field"),
        ({"timestamp_ms": [30, -1, 40]}, "invalid_field"),
        ({"timestamp_ms": [30, MAX_TIME_MS + 1, 40]}, "invalid_field"),
        ({"action": ["click", "teleport", "click"]}, "unknown_action"),
        ({"action": ["click", None, "click"]}, "unknown_action"),
        ({"value": [0.0, -1.0, 0.0]}, "invalid_field"),
        ({"value": [0.0, float("inf"), 0.0]}, "invalid_field"),
    ],
)
def test_a_row_that_is_no_event_is_refused_with_its_content(
    tmp_path: Path, columns: dict[str, Any], reason: str
) -> None:
    rows = read_whole(open_parquet(write(tmp_path / "bad.parquet", **columns)))
    assert len(rows.values) == 3
    ((at, refusal),) = rows.refused.items()
    assert refusal.reason == reason
    assert b'"user_id"' in rows.values[at]


def test_a_row_without_a_time_stays_behind_the_row_before(tmp_path: Path) -> None:
    times = pa.array([30, None, 10], pa.int64())
    rows = read_whole(open_parquet(write(tmp_path / "gap.parquet", timestamp_ms=times)))
    assert rows.times_ms == [10, 30, 30]
    assert list(rows.refused) == [2]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"action": None}, r"lacks \['action'\]"),
        ({"user_id": pa.array([[1], [2], [3]])}, "Column user_id"),
        ({"timestamp_ms": ["a", "b", "c"]}, "Column timestamp_ms"),
        ({"value": ["a", "b", "c"]}, "Column value"),
    ],
)
def test_wrong_columns_are_an_error_that_names_them(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(LogError, match=message):
        open_parquet(write(tmp_path / "wrong.parquet", **columns))


def test_missing_empty_and_damaged_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="no such log"):
        open_parquet(tmp_path / "none.parquet")
    (tmp_path / "empty.parquet").touch()
    with pytest.raises(LogError, match="log is empty"):
        open_parquet(tmp_path / "empty.parquet")
    whole = write(tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-20])
    with pytest.raises(LogError, match="not a readable Parquet file"):
        open_parquet(tmp_path / "cut.parquet")
    pq.write_table(pq.read_table(tmp_path / "whole.parquet").slice(0, 0), tmp_path / "no.parquet")
    with pytest.raises(LogError, match="has no rows"):
        open_parquet(tmp_path / "no.parquet")


@pytest.mark.parametrize(
    ("name", "num_rows", "counts"),
    [
        ("ebnerd_demo_events", 423_843, {"watch": 373_450, "click": 50_393}),
        ("online_retail_events", 406_829, {"purchase": 397_924, "return": 8_905}),
        ("idea_events", 33_976, {"rate": 28_382, "like": 3_115, "bookmark": 2_479}),
    ],
)
def test_real_logs_are_read_whole(name: str, num_rows: int, counts: dict[str, int]) -> None:
    path = DATA / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    events = events_of(open_parquet(path))
    assert len(events) == num_rows
    found: dict[str, int] = {}
    for event in events:
        found[event.action] = found.get(event.action, 0) + 1
    assert found == counts
    times = [event.event_time_ms for event in events]
    assert times == sorted(times)
