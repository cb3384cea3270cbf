"""A Kafka key that chooses the partition of a progress message."""

from __future__ import annotations

from itertools import count

from ingest.runtime.partitions import partition_of


def progress_key(partition: int, num_partitions: int) -> str:
    """The first key of the form `progress/<partition>/<i>` that lands in `partition`.

    Flink's table sink takes no partition number, so the message's key has to choose it.
    """
    candidates = (f"progress/{partition}/{i}" for i in count())
    return next(k for k in candidates if partition_of(k.encode(), num_partitions) == partition)
