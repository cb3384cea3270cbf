"""Small files in the published layouts become the events their rows tell of."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingest.adapters.catalog import open_log
from ingest.adapters.ids import HashedIds
from ingest.adapters.log import LogError
from ingest.events import Event
from tests.ingest.logs import events_of, read_whole

id_of = HashedIds().id_of


def brief(events: list[Event]) -> list[tuple[int, int, str, int]]:
    return [(e.user_id, e.item_id, e.action, e.event_time_ms) for e in events]


def opened(tmp_path: Path, layout: str, name: str, text: str) -> list[Event]:
    path = tmp_path / name
    data = text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return events_of(open_log(f"{layout}:{path}", tmp_path))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("u.data", "196\t242\t3\t881250949\n186\t302\t4\t881250950\n"),
        ("ratings.dat", "196::242::3::881250949\n186::302::4::881250950\n"),
        ("ratings.csv", "userId,movieId,rating,timestamp\n196,242,3.0,881250949\n186,302,4.0,881250950\n"),
    ],
)  # fmt: skip
def test_movielens_of_every_size(tmp_path: Path, name: str, text: str) -> None:
    events = opened(tmp_path, "movielens", name, text)
    assert brief(events) == [
        (196, 242, "rate", 881_250_949_000),
        (186, 302, "like", 881_250_950_000),
    ]
    assert [event.context for event in events] == [{"rating": 3.0}, {"rating": 4.0}]


def test_movielens_keeps_half_stars(tmp_path: Path) -> None:
    (event,) = opened(
        tmp_path, "movielens", "ratings.csv", "userId,movieId,rating,timestamp\n1,2,3.5,9\n"
    )
    assert (event.action, event.context) == ("rate", {"rating": 3.5})


def test_amazon_reviews_of_2023(tmp_path: Path) -> None:
    review = {"rating": 5.0, "title": "t", "text": "x", "images": [{"a": 1}], "asin": "B1",
              "parent_asin": "B2", "user_id": "AE", "timestamp": 1588687728923,
              "helpful_vote": 0, "verified_purchase": True}  # fmt: skip
    lines = json.dumps(review) + "\n" + json.dumps({**review, "rating": 1.0}) + "\n"
    events = opened(tmp_path, "amazon", "All_Beauty.jsonl.gz", lines)
    assert brief(events) == [
        (id_of("AE"), id_of("B2"), "like", 1588687728923),
        (id_of("AE"), id_of("B2"), "rate", 1588687728923),
    ]
    assert events[1].context == {"rating": 1.0}


def test_amazon_reviews_of_2018(tmp_path: Path) -> None:
    review = {"overall": 3.0, "verified": True, "reviewTime": "01 1, 2018", "reviewerID": "A1",
              "asin": "0005", "unixReviewTime": 1514764800, "reviewText": "x"}  # fmt: skip
    (event,) = opened(tmp_path, "amazon", "Music_5.json", json.dumps(review))
    assert brief([event]) == [(id_of("A1"), id_of("0005"), "rate", 1514764800000)]
    assert event.context == {"rating": 3.0}


def test_taobao_user_behavior(tmp_path: Path) -> None:
    text = "1,2268318,2520377,pv,1511544070\n1,5,6,fav,1511544071\n2,5,6,cart,1511544072\n2,5,6,buy,1511544073\n"
    events = opened(tmp_path, "taobao", "UserBehavior.csv", text)
    assert brief(events) == [
        (1, 2268318, "click", 1511544070000),
        (1, 5, "bookmark", 1511544071000),
        (2, 5, "cart", 1511544072000),
        (2, 5, "purchase", 1511544073000),
    ]


def test_retailrocket_events(tmp_path: Path) -> None:
    text = (
        "timestamp,visitorid,event,itemid,transactionid\n"
        "1433221332117,257597,view,355908,\n"
        "1433221332118,257597,addtocart,355908,\n"
        "1433221332119,257597,transaction,355908,4000\n"
    )
    events = opened(tmp_path, "retailrocket", "events.csv", text)
    assert [(e.action, e.event_time_ms) for e in events] == [
        ("click", 1433221332117),
        ("cart", 1433221332118),
        ("purchase", 1433221332119),
    ]


def test_otto_sessions(tmp_path: Path) -> None:
    lines = (
        '{"session":0,"events":[{"aid":1517085,"ts":1659304800025,"type":"clicks"},'
        '{"aid":1563459,"ts":1659304904511,"type":"carts"}]}\n'
        '{"session":1,"events":[]}\n'
        '{"session":2,"events":[{"aid":7,"ts":1659304800026,"type":"orders"}]}\n'
    )
    assert brief(opened(tmp_path, "otto", "otto-recsys-train.jsonl", lines)) == [
        (0, 1517085, "click", 1659304800025),
        (2, 7, "purchase", 1659304800026),
        (0, 1563459, "cart", 1659304904511),
    ]


KUAIRAND = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,"
    "long_view,play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
)


def test_kuairand_rows_are_an_impression_and_what_followed(tmp_path: Path) -> None:
    text = (
        KUAIRAND
        + "0,3,20220408,1400,1649400000100,1,1,0,0,1,0,1,5000,9000,0,0,0,0,1\n"
        + "0,4,20220408,1400,1649400000100,0,0,0,0,0,1,0,0,9000,0,0,0,0,1\n"
    )
    events = opened(tmp_path, "kuairand", "log_standard_4_08_to_4_21_pure.csv", text)
    assert [(e.item_id, e.action) for e in events] == [
        (3, "impression"),
        (3, "click"),
        (3, "watch"),
        (3, "like"),
        (3, "share"),
        (4, "impression"),
    ]
    assert (events[2].watch_ms, events[2].duration_ms) == (5000, 9000)
    assert len({event.event_id for event in events}) == 6


def test_all_logs_of_a_directory_are_one_log(tmp_path: Path) -> None:
    for day, time_ms in (("4_22", 20), ("4_08", 10)):
        row = f"7,3,20220408,1400,{time_ms},0,0,0,0,0,0,0,0,9000,0,0,0,0,1\n"
        (tmp_path / f"log_standard_{day}.csv").write_text(KUAIRAND + row)
    log = open_log(f"kuairand:{tmp_path}", tmp_path)
    assert [event.event_time_ms for event in events_of(log)] == [10, 20]
    assert {"path", "path_2"} <= set(log.identity)


def test_ebnerd_pages_and_histories(tmp_path: Path) -> None:
    def at(second: int) -> datetime:
        return datetime(2023, 5, 18, 7, 0, second, tzinfo=UTC).replace(tzinfo=None)

    zero_ms = int(datetime(2023, 5, 18, 7, tzinfo=UTC).timestamp()) * 1000
    pq.write_table(
        pa.table(
            {
                "impression_id": pa.array([1, 2], pa.uint32()),
                "article_id": pa.array([None, 9], pa.int32()),
                "impression_time": pa.array([at(1), at(2)], pa.timestamp("us")),
                "read_time": pa.array([21.0, 4.0], pa.float32()),
                "scroll_percentage": pa.array([None, 7.0], pa.float32()),
                "article_ids_inview": pa.array([[5, 6], [6]], pa.large_list(pa.int32())),
                "article_ids_clicked": pa.array([[6], []], pa.list_(pa.int32())),
                "user_id": pa.array([22, 22], pa.uint32()),
            }
        ),
        tmp_path / "behaviors.parquet",
    )
    pq.write_table(
        pa.table(
            {
                "user_id": pa.array([22, 23], pa.uint32()),
                "impression_time_fixed": pa.array([[at(0)], []], pa.list_(pa.timestamp("us"))),
                "scroll_percentage_fixed": pa.array([[None], []], pa.list_(pa.float32())),
                "article_id_fixed": pa.array([[3], []], pa.list_(pa.int32())),
                "read_time_fixed": pa.array([[17.0], []], pa.list_(pa.float32())),
            }
        ),
        tmp_path / "history.parquet",
    )
    events = events_of(open_log(f"ebnerd:{tmp_path}", tmp_path))
    assert [(e.item_id, e.action, e.event_time_ms - zero_ms, e.watch_ms) for e in events] == [
        (3, "watch", 0, 17_000),
        (5, "impression", 1_000, None),
        (6, "impression", 1_000, None),
        (6, "click", 1_000, None),
        (9, "watch", 2_000, 4_000),
        (6, "impression", 2_000, None),
    ]
    assert {event.user_id for event in events} == {22}


def test_mind_impressions(tmp_path: Path) -> None:
    text = "1\tU13740\t11/11/2019 9:05:58 AM\tN55189 N42782\tN55689-1 N35729-0\n2\tU9\t11/12/2019 6:11:30 PM\t\tN1-0\n"
    events = opened(tmp_path, "mind", "behaviors.tsv", text)
    first_ms = int(datetime(2019, 11, 11, 9, 5, 58, tzinfo=UTC).timestamp()) * 1000
    later_ms = int(datetime(2019, 11, 12, 18, 11, 30, tzinfo=UTC).timestamp()) * 1000
    user = id_of("U13740")
    assert brief(events) == [
        (user, id_of("N55689"), "impression", first_ms),
        (user, id_of("N35729"), "impression", first_ms),
        (user, id_of("N55689"), "click", first_ms),
        (id_of("U9"), id_of("N1"), "impression", later_ms),
    ]


@pytest.mark.parametrize(
    ("layout", "name", "text", "num_events", "reasons"),
    [
        ("taobao", "UserBehavior.csv", "1,2,3,pv,5\n1,2,3,zap,6\n1,2,3,click,6\n1,2\n,2,3,pv,8\n1,2,3,pv,x\n",
         1, ["invalid_field"] * 3 + ["unknown_action"] * 2),
        ("otto", "train.jsonl", '{"session":1,"events":[{"aid":1,"ts":5,"type":"clicks"}]}\n{"ses\n',
         1, ["invalid_field"]),
        ("mind", "behaviors.tsv", "1\tU1\t11/11/2019 9:05:58 AM\t\tN1-0 N2\n", 1, ["invalid_field"]),
        ("movielens", "ratings.dat", "1::2::3::4\n1::2::bad\n1::2::3::-4\n", 1,
         ["invalid_field", "invalid_field"]),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_events_are_refused_one_by_one(
    tmp_path: Path, layout: str, name: str, text: str, num_events: int, reasons: list[str]
) -> None:
    path = tmp_path / name
    path.write_text(text)
    rows = read_whole(open_log(f"{layout}:{path}", tmp_path))
    assert sorted(refusal.reason for refusal in rows.refused.values()) == reasons
    assert len(rows.values) == num_events + len(reasons)


def test_a_damaged_line_is_kept_in_whole(tmp_path: Path) -> None:
    path = tmp_path / "UserBehavior.csv"
    path.write_text("1,2,3,pv,5\n1,2,too,few\n")
    rows = read_whole(open_log(f"taobao:{path}", tmp_path))
    ((at, refusal),) = rows.refused.items()
    assert rows.values[at] == b"1,2,too,few"
    assert "4 columns, expected 5" in refusal.detail


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("taobao:nowhere", "no file named UserBehavior"),
        ("retailrocket:events.csv", "lacks"),
        ("ebnerd:behaviors.parquet", "lacks article_id"),
        ("otto:empty.jsonl", "0 bytes"),
        ("amazon:none.jsonl", "has no events"),
        ("movielens:ratings.csv.gz", "no file named"),
    ],
)
def test_a_file_that_is_not_of_the_layout_is_an_error(
    tmp_path: Path, source: str, message: str
) -> None:
    (tmp_path / "events.csv").write_text("time,visitor\n1,2\n")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "none.jsonl").write_text("\n\n")
    pq.write_table(pa.table({"user_id": [1]}), tmp_path / "behaviors.parquet")
    layout, _, name = source.partition(":")
    with pytest.raises(LogError, match=message):
        open_log(f"{layout}:{tmp_path / name}", tmp_path)


@pytest.mark.parametrize("damage", [lambda data: data[:-12], lambda data: b"\x1f\x8b" + data])
def test_a_damaged_compression_is_an_error(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "UserBehavior.csv.gz"
    path.write_bytes(damage(gzip.compress(b"1,2,3,pv,5\n" * 100)))
    with pytest.raises(LogError, match="cannot be read"):
        open_log(f"taobao:{path}", tmp_path)


def test_more_events_than_can_be_sorted_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.adapters.published.MAX_ROWS", 3)
    with pytest.raises(LogError, match="more than 3 events"):
        opened(tmp_path, "taobao", "UserBehavior.csv", "1,2,3,pv,5\n" * 4)


def test_a_log_of_several_blocks_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.adapters.readers._BLOCK_BYTES", 500)
    lines = [
        f'{{"session":{n},"events":[{{"aid":{n},"ts":{n},"type":"clicks"}}]}}' for n in range(100)
    ]
    nobody = '{"session":100,"events":[]}\n' * 50
    events = opened(tmp_path, "otto", "train.jsonl", nobody + "\n".join(lines))
    assert [event.user_id for event in events] == list(range(100))
    rows = "".join(f"{n},{n},1,pv,{n}\n" for n in range(200))
    assert len(opened(tmp_path, "taobao", "UserBehavior.csv", rows)) == 200
