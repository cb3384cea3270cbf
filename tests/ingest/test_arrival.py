"""The disorder of a replay: stated, seeded, and of the same events."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.adapters.arrival import Arrival
from ingest.adapters.parquet import open_parquet
from ingest.adapters.synthetic import SyntheticConfig, generate
from ingest.adapters.text import open_csv
from ingest.runtime.errors import ConfigError
from tests.ingest.logs import read_whole

DATA = Path(__file__).parents[3] / "shared" / "data"
times = st.lists(st.integers(0, 10**12), max_size=50).map(lambda some: np.array(sorted(some)))


@given(times, st.floats(0, 1), st.integers(0, 9))
def test_every_row_arrives_once_and_the_same_way_again(
    times_ms: np.ndarray, fraction: float, seed: int
) -> None:
    arrival = Arrival(late_fraction=fraction, seed=seed)
    rows = np.arange(len(times_ms))
    order = arrival.order_of(times_ms, rows)
    assert sorted(order.tolist()) == rows.tolist()
    assert order.tolist() == arrival.order_of(times_ms, rows).tolist()


def test_lateness_is_as_stated() -> None:
    times_ms = np.arange(200_000) * 100
    order = Arrival(late_fraction=0.1, late_mean_ms=5_000, seed=3).order_of(times_ms, times_ms)
    arrived_ms = times_ms[order]
    behind_ms = np.maximum.accumulate(arrived_ms) - arrived_ms
    late_ms = behind_ms[behind_ms > 0]
    assert len(late_ms) / len(times_ms) == pytest.approx(0.1, rel=0.05)
    assert late_ms.mean() == pytest.approx(5_000, rel=0.05)


def write(path: Path) -> Path:
    table = {
        "user_id": [1, 2, 3],
        "item_id": [7, 8, 9],
        "action": ["click"] * 3,
        "timestamp_ms": [30, 10, 20],
    }
    pq.write_table(pa.table(table), path)
    return path


def test_the_published_order_is_that_of_the_file(tmp_path: Path) -> None:
    log = open_parquet(write(tmp_path / "a.parquet"))
    published = log.arriving(Arrival(order="file"))
    assert read_whole(published).times_ms == [30, 10, 20]
    assert published.times_ms(1, 3).tolist() == [10, 20]
    assert sorted(read_whole(published).values) == sorted(read_whole(log).values)
    assert published.identity != log.identity


def test_a_sorted_file_remembers_its_published_order(tmp_path: Path) -> None:
    path = write(tmp_path / "b.parquet")
    table = pq.read_table(path).append_column("src_row", pa.array([2, 0, 1]))
    pq.write_table(table, path)
    log = open_parquet(path).arriving(Arrival(order="file"))
    assert read_whole(log).times_ms == [10, 20, 30]


def test_text_logs_arrive_in_the_order_of_the_file_too(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text(
        "user_id,item_id,action,event_time_ms\n1,2,click,30\n1,2,fly,10\n1,2,click,20\n"
    )
    log = open_csv(path).arriving(Arrival(order="file"))
    assert read_whole(log).times_ms == [30, 10, 20]
    assert list(read_whole(log).refused) == [1]


def test_time_order_is_the_log_itself() -> None:
    log, _ = generate(SyntheticConfig(num_impressions=20))
    assert log.arriving(Arrival()) is log
    late = log.arriving(Arrival(late_fraction=0.5, late_mean_ms=1e6))
    assert read_whole(late).values != read_whole(log).values
    assert sorted(read_whole(late).values) == sorted(read_whole(log).values)


@pytest.mark.parametrize(
    "values",
    [{"order": "random"}, {"late_fraction": 1.1}, {"late_mean_ms": 0.0}, {"seed": -1},
     {"late_fraction": float("nan")}, {"order": "file", "late_fraction": 0.1}],
)  # fmt: skip
def test_a_disorder_that_cannot_work_is_named(values: dict[str, float | str]) -> None:
    with pytest.raises(ConfigError, match=list(values)[-1]):
        Arrival(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["ebnerd_demo_events", "deskdrop_events", "idea_events"])
def test_real_logs_arrive_in_their_published_order(name: str) -> None:
    path = DATA / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    table = pq.read_table(path, columns=["timestamp_ms", "src_row"])
    in_file = table["timestamp_ms"].to_numpy()[np.argsort(table["src_row"].to_numpy())]
    log = open_parquet(path)
    published = log.arriving(Arrival(order="file"))
    assert published.times_ms(0, len(log)).tolist() == in_file.tolist()
    assert (np.diff(in_file) < 0).any(), "a log that is in order anyway tests nothing"
