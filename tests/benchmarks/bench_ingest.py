"""The door's speed against its targets, in events per CPU-second: `make bench-ingest`.

CPU time of this process alone (all its threads), as marginal cost: a large run less a small one, so
that starting up is nobody's event. The broker's own time is not the door's. The last line is the
verdict; the exit status is 1 where a target is missed.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deploy.broker import start_broker
from ingest.adapters.catalog import open_log
from ingest.adapters.parquet import open_parquet
from ingest.events import decode_record
from ingest.gateway.admission import Admission
from ingest.producer import EventProducer
from ingest.replay import ReplayConfig, replay
from ingest.runtime.kafka import create_topics
from tests.benchmarks.figures import Figure, Report

SMALL, LARGE = 100_000, 600_000


def write_parquet(path: Path, num_rows: int) -> Path:
    """Clicks of 20,000 users in random order of time."""
    rng = np.random.default_rng(1)
    table = {
        "user_id": rng.integers(0, 20_000, num_rows),
        "item_id": rng.integers(0, 100_000, num_rows),
        "action": pa.array(["click"]).take(pa.array(np.zeros(num_rows, np.int64))),
        "timestamp_ms": 1_700_000_000_000 + rng.integers(0, 10**9, num_rows),
    }
    pq.write_table(pa.table(table), path)
    return path


def write_taobao(path: Path, num_rows: int) -> Path:
    rng = np.random.default_rng(1)
    columns = rng.integers(1, 10**6, (num_rows, 3)).tolist()
    path.write_text(
        "".join(f"{u},{i},{c},pv,{1511544070 + n}\n" for n, (u, i, c) in enumerate(columns))
    )
    return path


def marginal(run: Callable[[int], None]) -> float:
    """Events per CPU-second of the events that the large run has more."""
    seconds = []
    for num_events in (SMALL, LARGE):
        started = time.process_time()
        run(num_events)
        seconds.append(time.process_time() - started)
    return (LARGE - SMALL) / (seconds[1] - seconds[0])


def measure(directory: Path) -> list[Figure]:
    parquet = write_parquet(directory / "clicks.parquet", LARGE)
    log = open_parquet(parquet)
    values = [value for rows in log.read(0, LARGE) for value in rows.values]
    broker = start_broker(directory / "broker")
    try:
        create_topics(broker.bootstrap, 4)
        with EventProducer(broker.bootstrap) as producer:

            def send(num_events: int) -> None:
                state = directory / f"state-{num_events}"
                replay(log, producer, ReplayConfig(state_directory=state, limit=num_events))

            replayed = marginal(send)
    finally:
        broker.stop()

    def read_taobao(num_events: int) -> None:
        path = write_taobao(directory / "UserBehavior.csv", num_events)
        spent.append(time.process_time())
        open_log(f"taobao:{path}", directory)
        spent.append(time.process_time())

    spent: list[float] = []
    for num_events in (SMALL, LARGE):
        read_taobao(num_events)
    published = (LARGE - SMALL) / ((spent[3] - spent[2]) - (spent[1] - spent[0]))
    admission = Admission(None, 0)
    return [
        Figure(name="replay into Kafka", measured=replayed, target=20_000),
        Figure(name="published CSV read (taobao)", measured=published, target=200_000),
        Figure(
            name="records parsed (decode_record)",
            measured=marginal(lambda n: [*map(decode_record, values[:n])] and None),
            target=None,
        ),
        Figure(
            name="events admitted by the gateway",
            measured=marginal(lambda n: [*map(admission.admit, values[:n])] and None),
            target=None,
        ),
    ]


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        figures = measure(Path(directory))
    report = Report("ingest", unit="events per CPU-second")
    for figure in figures:
        report.add(figure)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
