"""The one operator written in Python: a micro-batch of a partition in, rows for the sink out."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import NamedTuple

from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import MapStateDescriptor, ValueStateDescriptor

from features.assembler import Output, PartitionAssembler
from features.config import FeaturesConfig
from features.metrics import PartitionMetrics
from features.partitions import progress_key
from features.sequences import encode_progress
from ingest.runtime.topics import SEQUENCES

# No byte of a record can become one of these: bytes travel as characters up to U+00FF.
RECORD_SEPARATOR = "\u0100"
FIELD_SEPARATOR = "\u0101"

# What a row to the sink is: topic, key, value, and the headers as one text, null where it has none.
# Every field of every row costs a conversion, so it has as few as it can.
ROW_TYPE = Types.ROW_NAMED(
    ["topic", "key", "value", "headers"],
    [Types.STRING(), Types.STRING(), Types.PRIMITIVE_ARRAY(Types.BYTE()), Types.STRING()],
)
# Headers' texts are ASCII without control characters.
HEADER_SEPARATOR, NAME_SEPARATOR = "\x01", "\x02"


class MicroBatch(NamedTuple):
    """What Flink gathered of one partition; `payload` holds the records, see `unpack_records`."""

    partition: int
    payload: bytes


def unpack_records(payload: bytes) -> Iterator[tuple[int, int, bytes]]:
    r"""The (offset, arrival_ms, value) of every record of a micro-batch, in log order.

    Example:
        >>> list(unpack_records("7\u0101900\u0101\u00ff\u0000\u01008\u0101901\u0101".encode()))
        [(7, 900, b'\xff\x00'), (8, 901, b'')]
    """
    for record in payload.decode().split(RECORD_SEPARATOR):
        offset, arrival_ms, value = record.split(FIELD_SEPARATOR)
        yield int(offset), int(arrival_ms), value.encode("latin-1")


class AssembleBatches(KeyedProcessFunction):
    """Keeps one PartitionAssembler per key (the partition) and its state in Flink's.

    All users of the partition are held in memory; Flink's keyed state is the durable copy and is
    written once per micro-batch for the users that changed.
    """

    def __init__(self, config: FeaturesConfig, num_partitions: int) -> None:
        self._config = config
        self._num_partitions = num_partitions

    def open(self, runtime_context: RuntimeContext) -> None:
        """Bind state and metrics to the running task."""
        # One long-lived heap of users: young collections that walk it cost half of the core's time.
        gc.freeze()
        gc.set_threshold(1_000_000, 50, 1000)
        self._meta = runtime_context.get_state(
            ValueStateDescriptor("partition", Types.PICKLED_BYTE_ARRAY())
        )
        self._users = runtime_context.get_map_state(
            MapStateDescriptor("users", Types.STRING(), Types.PICKLED_BYTE_ARRAY())
        )
        self._metric_group = runtime_context.get_metrics_group()
        self._assemblers: dict[int, tuple[PartitionAssembler, PartitionMetrics]] = {}

    def process_element(
        self, value: tuple[int, bytes], ctx: KeyedProcessFunction.Context
    ) -> Iterator[Row]:
        """Assemble one micro-batch, save what changed, close with a progress message."""
        batch = MicroBatch(*value)
        assembler, metrics = self._of(batch.partition)
        for offset, arrival_ms, raw in unpack_records(batch.payload):
            for output in assembler.process(offset, arrival_ms, raw):
                yield _row(output)
        changes = assembler.take_changes()
        self._users.put_all({str(user_id): packed for user_id, packed in changes.items()})
        self._meta.update(assembler.pack_meta())
        progress = assembler.progress()
        metrics.show(progress, assembler.forced, assembler.num_users)
        key = progress_key(batch.partition, self._num_partitions)
        yield _row(Output(SEQUENCES, key, encode_progress(progress)))

    def _of(self, partition: int) -> tuple[PartitionAssembler, PartitionMetrics]:
        found = self._assemblers.get(partition)
        if found is None:
            assembler = PartitionAssembler(self._config, partition, self._num_partitions)
            meta = self._meta.value()
            if meta is not None:
                users = self._users.items()
                assembler.restore(meta, ((int(user_id), packed) for user_id, packed in users))
            found = assembler, PartitionMetrics(self._metric_group, partition)
            self._assemblers[partition] = found
        return found


def _row(output: Output) -> Row:
    headers = output.headers
    joined = headers and HEADER_SEPARATOR.join(
        [f"{name}{NAME_SEPARATOR}{text}" for name, text in headers.items()]
    )
    return Row(output.topic, output.key, output.value, joined)
