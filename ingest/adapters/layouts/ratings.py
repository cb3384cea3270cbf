"""Logs of ratings.

`MOVIELENS`: u.data (100k: tab, no header), ratings.dat (1M, 10M: `::`), ratings.csv (20M, 25M, 32M,
latest: userId, movieId, rating, timestamp in s).

`AMAZON`: reviews, one JSON object a line; of 2023 (*.jsonl: rating, title, text, asin, parent_asin,
user_id, timestamp in ms, verified_purchase, ...) and of 2018 (*.json: overall, reviewerID, asin,
unixReviewTime in s, ...). The item of 2023 is the parent_asin, which the product data are about.

From rating 4 on a `like`, below it a `rate`; the rating is in `context`.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from ingest.adapters.published import Rule, Source
from ingest.adapters.readers import Delimited, JsonLines
from ingest.adapters.tables import numbers_of

_LIKED = 4.0


def _like_or_rate(table: pa.Table) -> pa.Table:
    """Column `action` from column `rating`."""
    rating = numbers_of(table["rating"].combine_chunks())
    liked = pc.greater_equal(rating, _LIKED).fill_null(False)
    return table.append_column("action", pc.if_else(liked, "like", "rate"))


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
    return Rule(item_id=item_id, action_from="action", rating="rating")


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
