"""A hundred random kills of the features job, its JVM and the broker: `make chaos-features`.

Every kill is SIGKILL, half of them while something starts. Afterwards a read_committed reader must
find exactly the records that the room without Flink makes of the log, in their order.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from features.config import FeaturesConfig
from tests.benchmarks.figures import Figure, Report
from tests.features.kills import KilledRun, planned_kills

CONFIG = FeaturesConfig(emit_after_ms=90_000, checkpoint_interval_seconds=0.5)
NUM_PARTITIONS = 2
# Spread over a start, which takes about 10 s on an idle machine, and the commits after it.
LONGEST_SECONDS = 8.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--events", type=int, default=300, help="fed before each kill")
    arguments = parser.parse_args()
    report = Report("features", directory="chaos", seed=arguments.seed)
    victims: Counter[str] = Counter()
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="freshet-chaos-") as directory,
        KilledRun(Path(directory), CONFIG, NUM_PARTITIONS) as run,
    ):
        run.start_job()
        for kill in planned_kills(arguments.seed, arguments.kills, LONGEST_SECONDS):
            if time.monotonic() - started > 60 * arguments.minutes:
                break
            run.feed(arguments.events)
            run.strike(kill)
            victims[kill.victim] += 1
            print(f"{time.monotonic() - started:6.0f} s  {victims.total():3}  {kill}", flush=True)
        wanted, found = run.finish(timeout_seconds=600)
    differences = found.differences(wanted)
    print("\n".join(differences) or f"exact: {found.num_records} records, digest {found.digest()}")
    minutes = (time.monotonic() - started) / 60
    for figure in (
        Figure(name="kills", measured=victims.total(), target=arguments.kills, note=str(victims)),
        Figure(name="minutes", measured=minutes, target=arguments.minutes, least=False),
        Figure(name="differences from offline", measured=len(differences), target=0, least=False),
        Figure(
            name="events unaccounted for",
            measured=abs(found.counters.imbalance()),
            target=0,
            least=False,
        ),
        Figure(name="events through the kills", measured=found.counters.events, target=1),
    ):
        report.add(figure)
    return report.close(victims=victims)


if __name__ == "__main__":
    sys.exit(main())
