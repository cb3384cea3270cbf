"""Logs of feeds, which say what was shown, too.

`KUAIRAND`: log_*.csv: user_id, video_id, date, hourmin, time_ms, is_click, is_like, is_follow,
is_comment, is_forward, is_hate, long_view, play_time_ms, duration_ms, ... A row is an impression and
what followed it; the log has one time for all. `is_hate` has no action of ours and is not read.

`EBNERD`: behaviors.parquet (impression_id, article_id, impression_time, read_time in s, ...,
article_ids_inview, article_ids_clicked, user_id, ...) is pages: a watch of the page's own article, an
impression for each article in view, a click for each clicked one. history.parquet (user_id and
parallel lists impression_time_fixed, article_id_fixed, read_time_fixed, ...) is watches from before.
Histories of two splits overlap: name one split's directory, not both.

`MIND`: behaviors.tsv, no header: impression id, user, time (M/D/Y h:m:s AM), history, impressions
(`N1-0 N2-1`, 1 for clicked). The history has no times and is not read.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from ingest.adapters.published import Rule, Source
from ingest.adapters.readers import Delimited, ParquetFile
from ingest.adapters.tables import numbers_of


def _labelled_lists(table: pa.Table) -> pa.Table:
    """Columns `news` and `clicked`, of lists, from `impressions`: `N1-0 N2-1`."""
    shown = pc.split_pattern(table["impressions"].combine_chunks().fill_null(""), " ")
    parts = pc.extract_regex(shown.values, r"^(?P<news>\S+)-(?P<clicked>[01])$")
    for at, name in enumerate(("news", "clicked")):
        # What has no label stays an impression of an unknown item and is refused as such.
        column = pa.ListArray.from_arrays(shown.offsets, pc.struct_field(parts, at))
        table = table.append_column(name, column)
    return table


def _above_zero(column: pa.ChunkedArray) -> pa.Array:
    return pc.greater(numbers_of(column.combine_chunks()), 0.0).cast(pa.int8())


def _is_there(column: pa.ChunkedArray) -> pa.Array:
    return pc.is_valid(column.combine_chunks()).cast(pa.int8())


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
