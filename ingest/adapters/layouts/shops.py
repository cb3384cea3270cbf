"""Logs of shops.

`TAOBAO`: UserBehavior.csv, no header: user, item, category, pv | fav | cart | buy, time in s.

`RETAILROCKET`: events.csv: timestamp in ms, visitorid, event (view | addtocart | transaction),
itemid, transactionid.

`OTTO`: *.jsonl, a session a line: session, events: [{aid, ts in ms, type: clicks | carts | orders}].
The session is the user.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from ingest.adapters.published import Rule, Source
from ingest.adapters.readers import Delimited, JsonLines


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
