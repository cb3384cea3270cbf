"""Sequence building against its targets: `make bench-features`.

Real clicks where the log of them is at hand, else synthetic events: first a small part of the log,
then all of it, each before a broker of its own. The rate is what the events between the two cost
in CPU-seconds of the job's whole process tree, so that starting and compiling do not count; the
output must be exactly what the room without Flink makes of the same log.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploy.broker import Broker, start_broker
from deploy.processes import Child
from features.config import FeaturesConfig
from features.sequence_reader import decode_columns
from features.sequences import TOKEN, encode_targets
from ingest.adapters.log import EventLog
from ingest.adapters.parquet import open_parquet
from ingest.adapters.synthetic import SyntheticConfig, generate
from ingest.producer import EventProducer
from ingest.replay import ReplayConfig, replay
from ingest.runtime.kafka import create_topics
from tests.benchmarks.cpu_time import java_of, seconds_by_work, tree_seconds
from tests.benchmarks.features_delay import delays_ms
from tests.benchmarks.features_page import write_page
from tests.benchmarks.figures import Figure, Report
from tests.features.job_runs import Follower, Written, committed, expected, start_job
from tests.features.real_logs import DATA_DIRECTORY

NUM_PARTITIONS = 4
CONFIG = FeaturesConfig()
FLUSH_AFTER_MS = CONFIG.emit_after_ms + CONFIG.join_window_ms + CONFIG.bound_ms
LOG = DATA_DIRECTORY / "globo_clicks_1500k.parquet"
_TIMEOUT_SECONDS = 1800


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run of the job took: `work` is CPU-seconds by kind."""

    num_events: int
    cpu_seconds: float
    wall_seconds: float
    resident_bytes: int
    state_bytes: int
    producer_seconds: float
    work: Counter[str]
    wanted: Written
    found: Written


def open_clicks() -> EventLog:
    """The log of the benchmark; says which."""
    if LOG.exists():
        print(f"log: {LOG.name}")
        return open_parquet(LOG)
    print(f"log: synthetic, because there is no {LOG}")
    faults = {"malformed": 0.001, "duplicates": 0.02, "late": 0.01}
    return generate(
        SyntheticConfig(num_impressions=1_200_000, num_users=100_000, disorder_ms=5_000, **faults)
    )[0]


def run_job(log: EventLog, num_events: int, directory: Path, backend: str) -> Run:
    """Send the first rows of a log, let the job work them off, hold what it wrote to offline's."""
    broker = start_broker(directory / "broker")
    job: Child | None = None
    try:
        create_topics(broker.bootstrap, NUM_PARTITIONS)
        producer_seconds = send(log, num_events, broker, directory)
        started = time.monotonic()
        job = start_job(
            broker.bootstrap, directory / "job", CONFIG, heap_mb="1500", state_backend=backend
        )
        catch_up(broker.bootstrap, job)
        wall_seconds = time.monotonic() - started
        cpu_seconds, work = tree_seconds(job.pid), seconds_by_work(job.pid)
        resident_bytes = java_of(job.pid).memory_info().rss
        job.stop()
        savepoint = next((directory / "job" / "checkpoints").glob("*/savepoint-*"))
        return Run(
            num_events=num_events,
            cpu_seconds=cpu_seconds,
            wall_seconds=wall_seconds,
            resident_bytes=resident_bytes,
            state_bytes=sum(path.stat().st_size for path in savepoint.iterdir()),
            producer_seconds=producer_seconds,
            work=work,
            wanted=expected(broker.bootstrap, CONFIG),
            found=committed(broker.bootstrap),
        )
    finally:
        for child in (job, broker.child):
            if child is not None:
                child.kill()


def send(log: EventLog, num_events: int, broker: Broker, directory: Path) -> float:
    """Replay; returns the CPU-seconds it took."""
    config = ReplayConfig(
        state_directory=directory / "replay", limit=num_events, flush_after_ms=FLUSH_AFTER_MS
    )
    started = time.process_time()
    with EventProducer(broker.bootstrap) as producer:
        replay(log, producer, config)
    return time.process_time() - started


def catch_up(bootstrap: str, job: Child) -> None:
    follower = Follower(bootstrap)
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while not follower.caught_up():
        job.check_alive()
        if time.monotonic() > deadline:
            sys.exit(f"MISSED: the job reached only {follower.found}\n{job.log_tail()}")
    follower.close()


def tokens_decoded_a_second() -> float:
    """Of `decode_columns` on one core, over messages of 128 tokens."""
    tokens = np.zeros(128, TOKEN).tobytes()
    message = encode_targets(
        partition=0, user_id=1, clock_ms=2, first_offset=0, last_offset=1,
        lifetime_tokens=128, tokens=tokens, target_offsets=[0, 1],
    )  # fmt: skip
    messages = [message] * 4_096
    best = min(_seconds(messages) for _ in range(5))
    return len(messages) * 128 / best


def _seconds(messages: list[bytes]) -> float:
    started = time.process_time()
    decode_columns(messages)
    return time.process_time() - started


def throughput(report: Report, log: EventLog, num_small: int, num_large: int, backend: str) -> Run:
    """The two runs and what follows from them."""
    runs = []
    for num_events in (num_small, num_large):
        with tempfile.TemporaryDirectory(prefix="freshet-bench-") as directory:
            run = run_job(log, num_events, Path(directory), backend)
        print(
            f"{num_events:,} events: {run.cpu_seconds:.1f} CPU-s, {run.wall_seconds:.0f} s, "
            f"{run.found.num_records:,} records out, JVM {run.resident_bytes / 1e6:.0f} MB"
        )
        runs.append(run)
    small, large = runs
    for run in runs:
        differences = run.found.differences(run.wanted)
        print("\n".join(differences) or f"exact: digest {run.found.digest()}")
        report.add(Figure(
            name=f"lanes that differ from offline, {run.num_events:,} events",
            measured=len(differences), target=0, least=False,
        ))  # fmt: skip
    marginal = (large.num_events - small.num_events) / (large.cpu_seconds - small.cpu_seconds)
    report.add(Figure(name="events per CPU-second, marginal", measured=marginal, target=25_000))
    report.add(Figure(
        name="replay producer, events per CPU-second",
        measured=large.num_events / large.producer_seconds, target=20_000,
    ))  # fmt: skip
    report.add(Figure(
        name="bytes of a savepoint per history token",
        measured=large.state_bytes / large.wanted.num_history_tokens, target=40, least=False,
    ))  # fmt: skip
    large.work.subtract(small.work)
    return large


def delay(report: Report, seconds: float) -> None:
    """Beyond the earliest possible moment, at 500 events a second."""
    found = delays_ms(seconds)
    for percent, target_ms in ((50, 1_000), (95, 2_000)):
        report.add(Figure(
            name=f"added delay at 500 events/s, p{percent}, ms",
            measured=float(np.percentile(found, percent)), target=target_ms, least=False,
            note=f"{len(found)} messages",
        ))  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=150_000)
    parser.add_argument("--large", type=int, default=1_500_000)
    parser.add_argument("--backend", choices=["hashmap", "rocksdb"], default="hashmap")
    parser.add_argument("--delay-seconds", type=float, default=60)
    arguments = parser.parse_args()
    report = Report("features", backend=arguments.backend)
    report.add(Figure(
        name="tokens decoded a CPU-second", measured=tokens_decoded_a_second(), target=1_000_000
    ))  # fmt: skip
    delay(report, arguments.delay_seconds)
    log = open_clicks()
    num_large = min(arguments.large, len(log))
    large = throughput(report, log, arguments.small, num_large, arguments.backend)
    num_more = num_large - arguments.small
    microseconds = {name: 1e6 * used / num_more for name, used in large.work.most_common()}
    write_page(report.figures, microseconds)
    return report.close(microseconds_per_event=microseconds)


if __name__ == "__main__":
    sys.exit(main())
