"""The same messages without Flink: a partition's log in, what the job would write out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from features.assembler import PartitionAssembler
from features.config import FeaturesConfig
from features.outputs import Output
from features.sequences import Progress

Record = tuple[int, int, bytes]

# Users no longer needed are packed after so many records, as the job does after a micro-batch.
_SAVE_EVERY_RECORDS = 10_000


def assemble(
    config: FeaturesConfig, partition: int, num_partitions: int, log: Iterable[Record]
) -> Iterator[Output | Progress]:
    """Every message, late and dead record of a partition's log, in order, then its progress.

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
    for number, (offset, arrival_ms, raw) in enumerate(log, start=1):
        yield from assembler.process(offset, arrival_ms, raw)
        if number % _SAVE_EVERY_RECORDS == 0:
            assembler.save()
    yield assembler.progress()
