"""CSV and JSON-lines logs: order, raw passage, and bad input."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from ingest.adapters.ids import HashedIds
from ingest.adapters.log import LogError, RecordLog
from ingest.adapters.text import open_csv, open_jsonl
from ingest.events import MAX_EVENT_BYTES, InvalidEvent, decode_record
from tests.ingest.logs import events_of, read_whole


def line(user: int, at: int, **more: object) -> bytes:
    fields = {"event_id": f"e{user}", "user_id": user, "item_id": 1, "action": "click"}
    return json.dumps({**fields, "event_time_ms": at, **more}).encode()


def test_lines_go_through_untouched_in_time_order(tmp_path: Path) -> None:
    lines = [line(1, 30, unknown="stays"), line(2, 10), line(3, 10)]
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"\n".join(lines))
    rows = read_whole(open_jsonl(path))
    assert rows.values == [lines[1], lines[2], lines[0]]
    assert rows.keys == [b"2", b"3", b"1"]
    assert rows.times_ms == [10, 10, 30]


def test_a_line_that_is_no_event_goes_in_its_place_for_the_reader_to_refuse(tmp_path: Path) -> None:
    bad = [b"{", b"", b"\xff", b'{"user_id":-1,"event_time_ms":"noon"}', b"[" * 100_000, b"7"]
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"\n".join([line(1, 10), *bad, line(2, 20)]) + b"\n")
    rows = read_whole(open_jsonl(path))
    assert rows.values == [line(1, 10), *bad, line(2, 20)]
    assert rows.times_ms == [10] * 7 + [20]
    assert rows.keys == [b"1", *[None] * 6, b"2"]
    assert rows.refused == {}
    for raw in bad:
        with pytest.raises(InvalidEvent):
            decode_record(raw)


def test_the_first_lines_without_a_time_take_the_first_there_is(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"\n".join([b"{", b"", line(1, 10), line(2, 5)]))
    assert read_whole(open_jsonl(path)).times_ms == [5, 10, 10, 10]


def test_rows_of_two_files_of_one_name_have_different_event_ids(tmp_path: Path) -> None:
    ids = set()
    for day in ("1", "2"):
        path = tmp_path / f"day={day}" / "part-0.csv"
        path.parent.mkdir()
        path.write_text(f"user_id,item_id,action,event_time_ms\n1,2,click,{day}\n")
        log = open_csv(path)
        ids |= {events_of(log)[0].event_id, log.name}
    assert len(ids) == 4


def test_timestamp_ms_is_another_name_of_the_time(tmp_path: Path) -> None:
    fields = json.loads(line(1, 5))
    fields["timestamp_ms"] = fields.pop("event_time_ms")
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(fields))
    (event,) = events_of(open_jsonl(path))
    assert event.event_time_ms == 5


def test_a_line_that_no_message_can_carry_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"x" * (MAX_EVENT_BYTES + 1) + b"\n" + line(1, 1))
    rows = read_whole(open_jsonl(path))
    assert [refusal.reason for refusal in rows.refused.values()] == ["too_large"]


def test_compressed_logs_are_read(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl.gz"
    path.write_bytes(gzip.compress(line(4, 1)))
    assert read_whole(open_jsonl(path)).keys == [b"4"]


@pytest.mark.parametrize("name", ["cut.jsonl.gz", "cut.csv.gz"])
def test_a_truncated_compressed_log_is_an_error(tmp_path: Path, name: str) -> None:
    whole = gzip.compress(b"user_id,item_id,action,event_time_ms\n" + b"1,2,click,3\n" * 10_000)
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LogError, match="compressed log is damaged"):
        (open_csv if "csv" in name else open_jsonl)(tmp_path / name)


def test_a_compressed_log_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "plain.jsonl.gz").write_bytes(line(1, 1))
    with pytest.raises(LogError, match="compressed log is damaged"):
        open_jsonl(tmp_path / "plain.jsonl.gz")


def csv_log(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "shop.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_csv_row_becomes_an_event(tmp_path: Path) -> None:
    path = csv_log(
        tmp_path,
        "user_id,item_id,action,timestamp_ms,price_minor,watch_ms,shop\n"
        "anna,9,purchase,20,250,,north\n"
        "7,-9,watch,10,nan,1500,\n",
    )
    log = open_csv(path)
    watch, purchase = events_of(log)
    ids = HashedIds()
    assert (watch.event_id, watch.user_id, watch.item_id) == (
        f"{log.name}-1",
        7,
        ids.id_of("-9"),
    )
    assert (watch.watch_ms, watch.price_minor, watch.context) == (1500, None, None)
    assert (purchase.user_id, purchase.price_minor) == (ids.id_of("anna"), 250)
    assert purchase.context == {"shop": "north"}
    assert len(log.ids) == 2


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"1,2,teleport,3", "unknown_action"),
        (b"1,2,click,noon", "invalid_field"),
        (b"1,2,click,-3", "invalid_field"),
        (b"1,2,click,", "invalid_field"),
        (b",2,click,3", "invalid_field"),
        (b"nan,2,click,3", "invalid_field"),
        (b"1,2,click,nan", "invalid_field"),
        (b"1,2,click,3,4", "invalid_field"),
        (b"1,2", "invalid_field"),
        (b"\xff,2,click,3", "invalid_field"),
        (b"1,2,click," + b"9" * 6_000, "invalid_field"),
    ],
)
def test_a_csv_row_that_is_no_event_is_refused(tmp_path: Path, row: bytes, reason: str) -> None:
    head = b"user_id,item_id,action,event_time_ms\n5,5,click,5\n"
    rows = read_whole(open_csv(csv_log(tmp_path, head + row + b"\n")))
    assert len(rows.values) == 2
    (refusal,) = rows.refused.values()
    assert refusal.reason == reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user_id,item_id,action\n1,2,click\n", "event_time_ms or timestamp_ms"),
        ("user,item\n1,2\n", "user_id"),
        ("user_id,item_id,action,event_time_ms\n", "has no rows"),
        ("user_id,item_id,action,event_time_ms\n1,2,click," + "9" * 200_000, "not a readable CSV"),
        ("", "0 bytes"),
        (b"user_id,item_id,action,event_time_ms,\xff\n1,2,click,3,4\n", "no UTF-8"),
        (b"\xff,item_id,action,event_time_ms\n1,2,click,3\n", "lacks ..user_id"),
    ],
)
def test_a_csv_log_that_cannot_be_read_is_an_error(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    with pytest.raises(LogError, match=message):
        open_csv(csv_log(tmp_path, text))


@pytest.mark.parametrize("read", [open_csv, open_jsonl])
def test_a_log_one_may_not_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], RecordLog]
) -> None:
    path = csv_log(tmp_path, "user_id,item_id,action,event_time_ms\n1,2,click,3\n")
    monkeypatch.setattr(Path, "open", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(LogError, match="Permission denied"):
        read(path)


@pytest.mark.parametrize("read", [open_csv, open_jsonl])
def test_a_log_beyond_the_bound_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: object
) -> None:
    monkeypatch.setattr("ingest.adapters.text.MAX_ROWS", 3)
    path = csv_log(tmp_path, "user_id,item_id,action,event_time_ms\n" + "1,2,click,3\n" * 4)
    with pytest.raises(LogError, match="too large to sort in memory"):
        read(path)  # type: ignore[operator]
