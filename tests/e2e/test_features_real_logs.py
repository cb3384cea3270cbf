"""The first rows of every real log that is at hand, through one job: offline's bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.broker import Broker
from deploy.processes import await_condition
from features.config import FeaturesConfig
from ingest.producer import EventProducer
from ingest.replay import ReplayConfig, replay
from ingest.runtime.kafka import create_topics
from tests.features.job_runs import Follower, committed, expected, start_job
from tests.features.real_logs import NAMES, missing_logs, open_real_log

CONFIG = FeaturesConfig()
FLUSH_AFTER_MS = CONFIG.emit_after_ms + CONFIG.join_window_ms + CONFIG.bound_ms
NUM_ROWS = 3_000


@pytest.mark.e2e
@pytest.mark.timeout(600)
@pytest.mark.skipif(bool(missing_logs()), reason=f"real logs not at hand: {missing_logs()}")
def test_real_events_become_the_bytes_offline_makes_of_them(broker: Broker, tmp_path: Path) -> None:
    create_topics(broker.bootstrap, num_partitions=4)
    with EventProducer(broker.bootstrap) as producer:
        for name in NAMES:
            config = ReplayConfig(
                state_directory=tmp_path / "replay", limit=NUM_ROWS, flush_after_ms=FLUSH_AFTER_MS
            )
            replay(open_real_log(name), producer, config)
    job = start_job(broker.bootstrap, tmp_path / "job", CONFIG, parallelism="2")
    try:
        await_condition(Follower(broker.bootstrap).caught_up, job, timeout_seconds=400)
    finally:
        job.stop()
    wanted, found = expected(broker.bootstrap, CONFIG), committed(broker.bootstrap)
    assert found.differences(wanted) == []
    assert found.counters.events == NUM_ROWS * len(NAMES)
    assert found.counters.imbalance() == 0
