"""Progress messages find their partition by their key."""

from __future__ import annotations

from features.partitions import progress_key
from ingest.runtime.partitions import partition_of


def test_every_partition_has_a_progress_key_of_its_own() -> None:
    keys = [progress_key(partition, 16) for partition in range(16)]
    assert [partition_of(key.encode(), 16) for key in keys] == list(range(16))
