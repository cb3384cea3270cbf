"""The job as it runs: a real broker, real Flink, and nothing to show for what was done to it."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.broker import Broker
from deploy.ports import free_ports
from deploy.processes import Child, await_condition
from features.config import FeaturesConfig
from features.preconditions import require_no_sequences
from ingest.runtime.errors import ConfigError
from ingest.runtime.kafka import create_topics
from tests.features.faulty import feed
from tests.features.job_runs import Follower, committed, expected, start_job
from tests.features.kills import QUICK_START

pytestmark = pytest.mark.e2e

NUM_PARTITIONS = 4
SILENT_PARTITION = 2
CONFIG = FeaturesConfig(emit_after_ms=90_000, checkpoint_interval_seconds=0.5)


@pytest.fixture
def jobs() -> Iterator[list[Child]]:
    started: list[Child] = []
    yield started
    for child in started:
        child.kill()


def catch_up(broker: Broker, job: Child) -> None:
    follower = Follower(broker.bootstrap)
    await_condition(follower.caught_up, job, timeout_seconds=200)
    follower.close()


def scraped_clocks(metrics_port: int) -> set[int]:
    """The partitions whose clock the Prometheus reporter tells."""
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    name = "flink_taskmanager_job_task_operator_freshet_partition_clock_ms"
    clocks = re.findall(rf'^{name}{{.*\bpartition="(\d+)".*}} \d', page, re.MULTILINE)
    return set(map(int, clocks))


def stop(job: Child) -> None:
    job.stop(grace_seconds=90)
    assert job.returncode == 0, job.log_tail()


@pytest.mark.timeout(600)
def test_a_job_that_changes_parallelism_and_backend_writes_what_offline_writes(
    broker: Broker, tmp_path: Path, jobs: list[Child]
) -> None:
    create_topics(broker.bootstrap, NUM_PARTITIONS)
    require_no_sequences(broker.bootstrap, NUM_PARTITIONS)
    runs = [("2", "hashmap", "0.2"), ("4", "rocksdb", "0.1"), ("1", "hashmap", "0.2")]
    (metrics_port,) = free_ports(1)
    for seed, (parallelism, backend, micro_batch_seconds) in enumerate(runs):
        feed(
            broker.bootstrap,
            NUM_PARTITIONS,
            seed,
            num_events=2_000,
            silent_partition=SILENT_PARTITION,
        )
        job = start_job(
            broker.bootstrap,
            tmp_path,
            CONFIG,
            log=f"{seed}.log",
            jvm_args=QUICK_START,
            parallelism=parallelism,
            state_backend=backend,
            micro_batch_seconds=micro_batch_seconds,
            metrics_port=str(metrics_port),
        )
        jobs.append(job)
        catch_up(broker, job)
        assert committed(broker.bootstrap).differences(expected(broker.bootstrap, CONFIG)) == []
        assert scraped_clocks(metrics_port) == {0, 1, 3}
        stop(job)
    assert not Path(f"/proc/{(tmp_path / 'jvm.pid').read_text()}").exists()
    with pytest.raises(ConfigError, match="sequences already has messages"):
        require_no_sequences(broker.bootstrap, NUM_PARTITIONS)
    counters = committed(broker.bootstrap).counters
    assert counters.imbalance() == 0
    assert min(counters.targets, counters.folded, counters.duplicates) > 0
    assert min(counters.late, counters.dead, counters.pending, counters.heartbeats) > 0
