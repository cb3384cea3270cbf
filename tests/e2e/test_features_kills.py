"""Job and broker are killed with SIGKILL at random moments: the output is the one of no kill at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from features.config import FeaturesConfig
from tests.features.kills import KilledRun, planned_kills

NUM_KILLS = 5
# All three victims, the broker while the job runs; most kills hit a start, so few starts are awaited.
SEED = 28
LONGEST_SECONDS = 4.0
BROKER_AWAY_SECONDS = 20.0
CONFIG = FeaturesConfig(emit_after_ms=90_000, checkpoint_interval_seconds=0.5)


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_what_is_committed_through_random_kills_is_what_offline_makes_of_the_log(
    tmp_path: Path,
) -> None:
    with KilledRun(tmp_path, CONFIG, num_partitions=2, away_seconds=BROKER_AWAY_SECONDS) as run:
        run.start_job()
        for kill in planned_kills(SEED, NUM_KILLS, LONGEST_SECONDS):
            print(f"kill {kill}")
            run.feed(300)
            run.strike(kill)
        wanted, found = run.finish(timeout_seconds=240)
    assert found.differences(wanted) == []
    assert found.counters.imbalance() == 0
    assert min(found.counters.targets, found.counters.late, found.counters.dead) > 0
