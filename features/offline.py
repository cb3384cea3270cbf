"""The same messages without Flink: a partition's log in, what the job would write out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from features.assembler import Output, PartitionAssembler
from features.config import FeaturesConfig
from features.sequences import Progress

Record = tuple[int, int, bytes]


def assemble(
    config: FeaturesConfig, partition: int, num_partitions: int, log: Iterable[Record]
) -> Iterator[Output | Progress]:
    """Every targets message, late and dead record of a partition's log, in order, then its progress.

    Args:
        config: the semantics; the same as the job's, for the same bytes.
        partition: which partition of `events` the log is.
        num_partitions: of `events`.
        log: (offset, arrival_ms, value), by offset.

    Raises:
        FreshetError: an offset that is not past the one before.

    Example:
        >>> from ingest.events import Event, encode_record
        >>> click = Event(event_id=1, user_id=21, item_id=5, action="click", event_time_ms=1_000)
        >>> log = [(0, 2_000, encode_record(click)), (1, 99_000, b'{"heartbeat_ms": 99000}')]
        >>> output, progress = assemble(FeaturesConfig(), 0, 1, log)
        >>> output.topic, output.key, progress.counters.targets
        ('sequences', '21', 1)
    """
    assembler = PartitionAssembler(config, partition, num_partitions)
    for offset, arrival_ms, raw in log:
        yield from assembler.process(offset, arrival_ms, raw)
    yield assembler.progress()
