"""The generator's accounts are those the features job comes to, for any number of partitions."""

from __future__ import annotations

import pytest

from features.config import FeaturesConfig
from features.offline import assemble
from features.sequences import Counters, Progress
from ingest.adapters.synthetic import SyntheticConfig, generate
from ingest.events import Heartbeat, encode_record
from ingest.runtime.partitions import partition_of
from tests.ingest.logs import read_whole

ARRIVAL_MS = 1_750_000_000_000


@pytest.mark.parametrize(("num_partitions", "disorder_ms"), [(1, 0), (3, 3_000), (7, 5_000)])
def test_every_record_is_counted_as_what_it_was_planted_as(
    num_partitions: int, disorder_ms: int
) -> None:
    log, truth = generate(
        SyntheticConfig(
            num_impressions=3_000,
            malformed=0.03,
            duplicates=0.03,
            late=0.03,
            disorder_ms=disorder_ms,
        )
    )
    rows = read_whole(log)
    partitions: list[list[bytes]] = [[] for _ in range(num_partitions)]
    for key, value in zip(rows.keys, rows.values, strict=True):
        partitions[partition_of(key or b"", num_partitions)].append(value)
    config = FeaturesConfig()
    end_ms = rows.times_ms[-1] + config.emit_after_ms + config.join_window_ms + config.bound_ms
    total = Counters()
    for partition, values in enumerate(partitions):
        beats = [encode_record(Heartbeat(heartbeat_ms=end_ms + tick)) for tick in range(2)]
        records = [(at, ARRIVAL_MS, value) for at, value in enumerate([*values, *beats])]
        for message in assemble(config, partition, num_partitions, records):
            if isinstance(message, Progress):
                total += message.counters
    assert total == Counters(
        events=truth.num_records,
        targets=truth.num_impressions,
        folded=truth.num_folded,
        duplicates=truth.faults.duplicates,
        late=truth.faults.late,
        dead=truth.faults.malformed,
        heartbeats=2 * num_partitions,
    )
