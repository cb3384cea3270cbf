"""Sequence building against its targets: `make bench-features`.

Real clicks where the log of them is at hand, else synthetic events: first a small part of the log,
then all of it, each before a broker of its own. The rate is what the events between the two cost
in CPU-seconds of the job's whole process tree, so that starting and compiling do not count; the
output must be exactly what the room without Flink makes of the same log.

`emit_after` is the knob between freshness and cost: what is measured is messages as much as events.
So two configurations run, alike but for it, every policy switched on in both: `backfill`, which the
target is for, and `live`, whose rate is told beside it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
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
from tests.benchmarks.features_page import Cost, write_page
from tests.benchmarks.figures import Figure, Report
from tests.features.job_runs import Follower, Written, committed, expected, start_job
from tests.features.real_logs import DATA_DIRECTORY

NUM_PARTITIONS = 4
LIVE = FeaturesConfig(attribution_ms=3_600_000, context_features=("device",))
BACKFILL = replace(LIVE, emit_after_ms=1_800_000)
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


def run_job(
    log: EventLog, config: FeaturesConfig, num_events: int, directory: Path, backend: str
) -> Run:
    """Send the first rows of a log, let the job work them off, hold what it wrote to offline's."""
    broker = start_broker(directory / "broker")
    job: Child | None = None
    try:
        create_topics(broker.bootstrap, NUM_PARTITIONS)
        producer_seconds = send(log, config, num_events, broker, directory)
        started = time.monotonic()
        job = start_job(
            broker.bootstrap, directory / "job", config, heap_mb="1500", state_backend=backend
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
            wanted=expected(broker.bootstrap, config),
            found=committed(broker.bootstrap),
        )
    finally:
        for child in (job, broker.child):
            if child is not None:
                child.kill()


def send(
    log: EventLog, config: FeaturesConfig, num_events: int, broker: Broker, directory: Path
) -> float:
    """Replay; returns the CPU-seconds it took."""
    plan = ReplayConfig(
        state_directory=directory / "replay",
        limit=num_events,
        flush_after_ms=config.emit_after_ms + config.join_window_ms + config.bound_ms,
    )
    started = time.process_time()
    with EventProducer(broker.bootstrap) as producer:
        replay(log, producer, plan)
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


def cost(
    report: Report,
    name: str,
    config: FeaturesConfig,
    log: EventLog,
    sizes: tuple[int, int],
    backend: str,
) -> tuple[Cost, Run]:
    """A small and a large run, both exact, and what the events between them cost; the large run."""
    runs = []
    for num_events in sizes:
        with tempfile.TemporaryDirectory(prefix="freshet-bench-") as directory:
            run = run_job(log, config, num_events, Path(directory), backend)
        print(
            f"{name}, {num_events:,} events: {run.cpu_seconds:.1f} CPU-s, {run.wall_seconds:.0f} s, "
            f"{run.found.num_records:,} records out, JVM {run.resident_bytes / 1e6:.0f} MB"
        )
        differences = run.found.differences(run.wanted)
        print("\n".join(differences) or f"exact: digest {run.found.digest()}")
        report.add(Figure(
            name=f"lanes that differ from offline, {name}, {num_events:,} events",
            measured=len(differences), target=0, least=False,
        ))  # fmt: skip
        runs.append(run)
    small, large = runs
    num_more = large.num_events - small.num_events
    large.work.subtract(small.work)
    found = Cost(
        emit_after_seconds=config.emit_after_ms / 1000,
        max_targets=config.max_targets,
        num_events=num_more,
        events_per_cpu_second=num_more / (large.cpu_seconds - small.cpu_seconds),
        messages_per_event=(large.found.num_records - small.found.num_records) / num_more,
        microseconds_per_event={
            label: 1e6 * used / num_more for label, used in large.work.most_common()
        },
    )
    print(
        f"{name}: emit_after {found.emit_after_seconds:g} s, K {found.max_targets}, "
        f"{found.messages_per_event:.2f} messages an event, "
        f"{found.events_per_cpu_second:,.0f} events per CPU-second"
    )
    return found, large


def throughput(
    report: Report, log: EventLog, sizes: tuple[int, int], live_events: int, backend: str
) -> dict[str, Cost]:
    """Both configurations; the targets are backfill's."""
    backfill, large = cost(report, "backfill", BACKFILL, log, sizes, backend)
    live, _ = cost(report, "live", LIVE, log, (sizes[0], live_events), backend)
    report.add(Figure(
        name="events per CPU-second, marginal, backfill",
        measured=backfill.events_per_cpu_second, target=25_000,
        note=f"{backfill.messages_per_event:.2f} messages an event",
    ))  # fmt: skip
    report.add(Figure(
        name="replay producer, events per CPU-second",
        measured=large.num_events / large.producer_seconds, target=20_000,
    ))  # fmt: skip
    report.add(Figure(
        name="bytes of a savepoint per history token",
        measured=large.state_bytes / large.wanted.num_history_tokens, target=40, least=False,
        note=f"{large.wanted.num_history_tokens:,} tokens",
    ))  # fmt: skip
    return {"backfill": backfill, "live": live}


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
    parser.add_argument("--live", type=int, default=600_000, help="events of the live large run")
    parser.add_argument("--backend", choices=["hashmap", "rocksdb"], default="hashmap")
    parser.add_argument("--delay-seconds", type=float, default=60)
    arguments = parser.parse_args()
    report = Report("features", backend=arguments.backend)
    report.add(Figure(
        name="tokens decoded a CPU-second", measured=tokens_decoded_a_second(), target=1_000_000
    ))  # fmt: skip
    delay(report, arguments.delay_seconds)
    log = open_clicks()
    sizes = (arguments.small, min(arguments.large, len(log)))
    live_events = min(arguments.live, len(log))
    costs = throughput(report, log, sizes, live_events, arguments.backend)
    write_page(report.figures, costs)
    return report.close(costs={name: asdict(each) for name, each in costs.items()})


if __name__ == "__main__":
    sys.exit(main())
