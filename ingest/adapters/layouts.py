"""The published layouts of recommendation logs, one description each.

`MOVIELENS`: u.data (100k: tab, no header), ratings.dat (1M, 10M: `::`), ratings.csv (20M, 25M, 32M,
latest: userId, movieId, rating, timestamp in s). From rating 4 on a `like`, below it a `rate`.

`AMAZON`: reviews, one JSON object a line; of 2023 (*.jsonl: rating, title, text, asin, parent_asin,
user_id, timestamp in ms, verified_purchase, ...) and of 2018 (*.json: overall, reviewerID, asin,
unixReviewTime in s, ...). The item of 2023 is the parent_asin, which the product data are about.

`TAOBAO`: UserBehavior.csv, no header: user, item, category, pv | fav | cart | buy, time in s.

`RETAILROCKET`: events.csv: timestamp in ms, visitorid, event (view | addtocart | transaction),
itemid, transactionid.

`OTTO`: *.jsonl, a session a line: session, events: [{aid, ts in ms, type: clicks | carts | orders}].
The session is the user.

`KUAIRAND`: log_*.csv: user_id, video_id, date, hourmin, time_ms, is_click, is_like, is_follow,
is_comment, is_forward, is_hate, long_view, play_time_ms, duration_ms, ... A row is an impression and
what followed it; the log has one time for all. `is_hate` has no action of ours and is not read.

`EBNERD`: behaviors.parquet (impression_id, article_id, impression_time, read_time in s, ...,
article_ids_inview, article_ids_clicked, user_id, ...) is pages: an impression for each article in
view, a click for each clicked one, a watch of the page's own article. history.parquet (user_id and
parallel lists impression_time_fixed, article_id_fixed, read_time_fixed, ...) is watches from before.
Histories of two splits overlap: name one split's directory, not both.

`MIND`: behaviors.tsv, no header: impression id, user, time (M/D/Y h:m:s AM), history, impressions
(`N1-0 N2-1`, 1 for clicked). The history has no times and is not read.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from ingest.adapters.published import Rule, Source, numbers_of
from ingest.adapters.readers import Delimited, JsonLines, ParquetFile

_LIKED = 4.0


def _like_or_rate(table: pa.Table) -> pa.Table:
    """Column `action` from column `rating`."""
    rating = numbers_of(table["rating"].combine_chunks())
    liked = pc.greater_equal(rating, _LIKED).fill_null(False)
    return table.append_column("action", pc.if_else(liked, "like", "rate"))


def _lists_of_structs(table: pa.Table) -> pa.Table:
    """Each field of column `events`, a list of structs, as a column of lists."""
    events = table["events"].combine_chunks()
    fields = events.flatten()
    # Null lists have no elements, so offsets must be counted anew.
    lengths = pc.list_value_length(events).fill_null(0)
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths)])
    for at, field in enumerate(events.type.value_type):
        table = table.append_column(field.name, pa.ListArray.from_arrays(offsets, fields.field(at)))
    return table


def _labelled_lists(table: pa.Table) -> pa.Table:
    """Columns `news` and `clicked`, of lists, from `impressions`: `N1-0 N2-1`."""
    shown = pc.split_pattern(table["impressions"].combine_chunks().fill_null(""), " ")
    parts = pc.extract_regex(shown.values, r"^(?P<news>\S+)-(?P<clicked>[01])$")
    for at, name in enumerate(("news", "clicked")):
        # What has no label stays an impression of an unknown item and is refused as such.
        column = pa.ListArray.from_arrays(shown.offsets, pc.struct_field(parts, at))
        table = table.append_column(name, column)
    return table


def _ratings(files: str, reader: Delimited, user_id: str, item_id: str) -> Source:
    return Source(
        files=(files,),
        reader=reader,
        user_id=user_id,
        time="timestamp",
        time_unit="s",
        derive=_like_or_rate,
        rules=(_rating_rule(item_id),),
    )


def _rating_rule(item_id: str) -> Rule:
    same = (("like", "like"), ("rate", "rate"))
    return Rule(item_id=item_id, action_from="action", vocabulary=same, rating="rating")


MOVIELENS = (
    _ratings(
        "u*.data",
        Delimited(columns=("user", "item", "rating", "timestamp"), header=False, delimiter="\t"),
        "user",
        "item",
    ),
    _ratings(
        "ratings.dat",
        # Between two colons lies an empty column.
        Delimited(
            columns=("user", "_1", "item", "_2", "rating", "_3", "timestamp"),
            header=False,
            delimiter=":",
        ),
        "user",
        "item",
    ),
    _ratings(
        "ratings*.csv",
        Delimited(columns=("userId", "movieId", "rating", "timestamp")),
        "userId",
        "movieId",
    ),
)

AMAZON = (
    Source(
        files=("*.jsonl", "*.jsonl.gz"),
        reader=JsonLines(
            schema=pa.schema(
                {
                    "user_id": pa.string(),
                    "parent_asin": pa.string(),
                    "rating": pa.float64(),
                    "timestamp": pa.int64(),
                }
            )
        ),
        user_id="user_id",
        time="timestamp",
        time_unit="ms",
        derive=_like_or_rate,
        rules=(_rating_rule("parent_asin"),),
    ),
    Source(
        files=("*.json", "*.json.gz"),
        reader=JsonLines(
            schema=pa.schema(
                {
                    "reviewerID": pa.string(),
                    "asin": pa.string(),
                    "overall": pa.float64(),
                    "unixReviewTime": pa.int64(),
                }
            )
        ),
        user_id="reviewerID",
        time="unixReviewTime",
        time_unit="s",
        derive=lambda table: _like_or_rate(table.append_column("rating", table["overall"])),
        rules=(_rating_rule("asin"),),
    ),
)

TAOBAO = (
    Source(
        files=("UserBehavior*.csv", "UserBehavior*.csv.gz"),
        reader=Delimited(
            columns=("user", "item", "category", "behavior", "timestamp"), header=False
        ),
        user_id="user",
        time="timestamp",
        time_unit="s",
        rules=(
            Rule(
                item_id="item",
                action_from="behavior",
                vocabulary=(
                    ("pv", "click"),
                    ("fav", "bookmark"),
                    ("cart", "cart"),
                    ("buy", "purchase"),
                ),
            ),
        ),
    ),
)

RETAILROCKET = (
    Source(
        files=("events*.csv", "events*.csv.gz"),
        reader=Delimited(columns=("timestamp", "visitorid", "event", "itemid")),
        user_id="visitorid",
        time="timestamp",
        time_unit="ms",
        rules=(
            Rule(
                item_id="itemid",
                action_from="event",
                vocabulary=(("view", "click"), ("addtocart", "cart"), ("transaction", "purchase")),
            ),
        ),
    ),
)

OTTO = (
    Source(
        files=("*.jsonl", "*.jsonl.gz"),
        reader=JsonLines(
            schema=pa.schema(
                {
                    "session": pa.int64(),
                    "events": pa.list_(
                        pa.struct({"aid": pa.int64(), "ts": pa.int64(), "type": pa.string()})
                    ),
                }
            )
        ),
        user_id="session",
        time="ts",
        time_unit="ms",
        derive=_lists_of_structs,
        rules=(
            Rule(
                item_id="aid",
                action_from="type",
                vocabulary=(("clicks", "click"), ("carts", "cart"), ("orders", "purchase")),
            ),
        ),
    ),
)

_KUAIRAND_FLAGS = (
    ("is_like", "like"),
    ("is_follow", "follow"),
    ("is_comment", "comment"),
    ("is_forward", "share"),
)

KUAIRAND = (
    Source(
        files=("log_*.csv", "log_*.csv.gz"),
        reader=Delimited(
            columns=(
                "user_id",
                "video_id",
                "time_ms",
                "is_click",
                *(flag for flag, _ in _KUAIRAND_FLAGS),
                "play_time_ms",
                "duration_ms",
            )
        ),
        user_id="user_id",
        time="time_ms",
        time_unit="ms",
        derive=lambda table: table.append_column("played", _above_zero(table["play_time_ms"])),
        rules=(
            Rule(item_id="video_id", action="impression"),
            Rule(item_id="video_id", action="click", when="is_click"),
            Rule(
                item_id="video_id",
                action="watch",
                when="played",
                watch_ms="play_time_ms",
                duration_ms="duration_ms",
            ),
            *(
                Rule(item_id="video_id", action=action, when=flag)
                for flag, action in _KUAIRAND_FLAGS
            ),
        ),
    ),
)

EBNERD = (
    Source(
        files=("history*.parquet",),
        reader=ParquetFile(
            columns=("user_id", "impression_time_fixed", "article_id_fixed", "read_time_fixed")
        ),
        user_id="user_id",
        time="impression_time_fixed",
        time_unit="timestamp",
        rules=(Rule(item_id="article_id_fixed", action="watch", watch_seconds="read_time_fixed"),),
    ),
    Source(
        files=("behaviors*.parquet",),
        reader=ParquetFile(
            columns=(
                "user_id",
                "impression_time",
                "article_id",
                "read_time",
                "article_ids_inview",
                "article_ids_clicked",
            )
        ),
        user_id="user_id",
        time="impression_time",
        time_unit="timestamp",
        derive=lambda table: table.append_column("on_article", _is_there(table["article_id"])),
        rules=(
            Rule(
                item_id="article_id", action="watch", when="on_article", watch_seconds="read_time"
            ),
            Rule(item_id="article_ids_inview", action="impression"),
            Rule(item_id="article_ids_clicked", action="click"),
        ),
    ),
)

MIND = (
    Source(
        files=("behaviors*.tsv",),
        reader=Delimited(
            columns=("impression_id", "user", "time", "history", "impressions"),
            header=False,
            delimiter="\t",
        ),
        user_id="user",
        time="time",
        time_unit="%m/%d/%Y %I:%M:%S %p",
        derive=_labelled_lists,
        rules=(
            Rule(item_id="news", action="impression"),
            Rule(item_id="news", action="click", when="clicked"),
        ),
    ),
)


def _above_zero(column: pa.ChunkedArray) -> pa.Array:
    return pc.greater(numbers_of(column.combine_chunks()), 0.0).cast(pa.int8())


def _is_there(column: pa.ChunkedArray) -> pa.Array:
    return pc.is_valid(column.combine_chunks()).cast(pa.int8())


LAYOUTS: dict[str, tuple[Source, ...]] = {
    "amazon": AMAZON,
    "ebnerd": EBNERD,
    "kuairand": KUAIRAND,
    "mind": MIND,
    "movielens": MOVIELENS,
    "otto": OTTO,
    "retailrocket": RETAILROCKET,
    "taobao": TAOBAO,
}
