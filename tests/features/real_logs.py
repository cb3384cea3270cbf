"""Real event logs beside the project, where there are any."""

from __future__ import annotations

from pathlib import Path

from ingest.adapters.log import EventLog
from ingest.adapters.parquet import open_parquet

DATA_DIRECTORY = Path(__file__).resolve().parents[3] / "shared" / "data"

# By time: replayed into one log one after the other, its clock never goes back. Minutes and 94 %
# ties; likes and comments; milliseconds; clicks and the watches to be joined with them.
NAMES = (
    "online_retail_events",
    "deskdrop_events",
    "globo_clicks_1500k",
    "ebnerd_demo_events",
)


def missing_logs() -> list[str]:
    """The files that are not there."""
    paths = [DATA_DIRECTORY / f"{name}.parquet" for name in NAMES]
    return [path.name for path in paths if not path.is_file()]


def open_real_log(name: str) -> EventLog:
    """One of NAMES."""
    return open_parquet(DATA_DIRECTORY / f"{name}.parquet")
