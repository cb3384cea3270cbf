"""The job against offline on every real log that is at hand, in full: `make check-features`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from deploy.broker import start_broker
from deploy.processes import await_condition
from features.config import FeaturesConfig
from ingest.adapters.log import EventLog
from ingest.adapters.synthetic import SyntheticConfig, generate
from ingest.producer import EventProducer
from ingest.replay import ReplayConfig, replay
from ingest.runtime.kafka import create_topics
from tests.benchmarks.figures import Figure, Report
from tests.features.job_runs import Follower, committed, expected, start_job
from tests.features.real_logs import NAMES, missing_logs, open_real_log

CONFIG = FeaturesConfig()
FLUSH_AFTER_MS = CONFIG.emit_after_ms + CONFIG.join_window_ms + CONFIG.bound_ms
NUM_PARTITIONS = 4


def synthetic_log() -> EventLog:
    """Duplicates, malformed records, disorder, and events up to six hours late."""
    config = SyntheticConfig(
        num_impressions=50_000, malformed=0.01, duplicates=0.02, late=0.02, disorder_ms=9_000
    )
    return generate(config)[0]


def check(log: EventLog, parallelism: int, report: Report) -> None:
    """Through broker and job, at one parallelism; against offline."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="freshet-check-") as name:
        directory = Path(name)
        broker = start_broker(directory / "broker")
        job = None
        try:
            create_topics(broker.bootstrap, NUM_PARTITIONS)
            with EventProducer(broker.bootstrap) as producer:
                config = ReplayConfig(
                    state_directory=directory / "replay", flush_after_ms=FLUSH_AFTER_MS
                )
                replay(log, producer, config)
            job = start_job(
                broker.bootstrap, directory / "job", CONFIG, parallelism=str(parallelism)
            )
            await_condition(Follower(broker.bootstrap).caught_up, job, timeout_seconds=1800)
            job.stop()
            wanted, found = expected(broker.bootstrap, CONFIG), committed(broker.bootstrap)
        finally:
            for child in (job, broker.child):
                if child is not None:
                    child.kill()
    differences = found.differences(wanted)
    print("\n".join(differences) or f"exact: {found.num_records} records, digest {found.digest()}")
    report.add(
        Figure(
            name=f"differences from offline, {log.name}, parallelism {parallelism}",
            measured=len(differences) + abs(found.counters.imbalance()),
            target=0,
            least=False,
            note=f"{found.counters.events} events, {time.monotonic() - started:.0f} s",
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parallelism", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--logs", nargs="*", default=list(NAMES))
    arguments = parser.parse_args()
    report = Report("features-exact", directory="chaos")
    missing = missing_logs()
    print(f"NOT CHECKED, not at hand: {missing}" if missing else "every real log is at hand")
    for parallelism in arguments.parallelism:
        check(synthetic_log(), parallelism, report)
    for number, name in enumerate(n for n in arguments.logs if f"{n}.parquet" not in missing):
        parallelism = arguments.parallelism[number % len(arguments.parallelism)]
        check(open_real_log(name), parallelism, report)
    return report.close(missing=missing)


if __name__ == "__main__":
    sys.exit(main())
