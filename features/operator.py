"""The one operator written in Python: a micro-batch of a partition in, rows for the sink out."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import MapStateDescriptor, ValueStateDescriptor

from features.assembler import PartitionAssembler
from features.config import FeaturesConfig
from features.metrics import PartitionMetrics
from features.outputs import Output
from features.partitions import progress_key
from features.sequences import encode_progress
from features.stores import Stores
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


class MapStateStore:
    """A store of `features.stores` in Flink's keyed state: that of the key being processed."""

    def __init__(self, runtime_context: RuntimeContext, name: str) -> None:
        self._state: Any = runtime_context.get_map_state(
            MapStateDescriptor(name, Types.STRING(), Types.PICKLED_BYTE_ARRAY())
        )

    def get(self, key: int) -> bytes | None:
        """What was put last under `key`, None if nothing or removed."""
        return self._state.get(str(key))

    def put(self, changes: dict[int, bytes]) -> None:
        """Put every one of `changes`."""
        self._state.put_all({str(key): packed for key, packed in changes.items()})

    def remove(self, keys: Iterable[int]) -> None:
        """Forget `keys`; those that are not there are no error."""
        for key in keys:
            self._state.remove(str(key))

    def items(self) -> Iterator[tuple[int, bytes]]:
        """Everything."""
        return ((int(key), packed) for key, packed in self._state.items())


class AssembleBatches(KeyedProcessFunction):
    """Keeps one PartitionAssembler per key (the partition) and its state in Flink's.

    Users with pending events and those seen last are in memory; what changed is written to Flink's
    keyed state once per micro-batch, and the others are read from it when an event asks for them.
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
        self._stores = Stores(
            *[MapStateStore(runtime_context, name) for name in ("users", "waiting", "touches")]
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
        self._meta.update(assembler.save())
        progress = assembler.progress()
        metrics.show(progress, assembler.tally, assembler.num_users, arrival_ms)
        key = progress_key(batch.partition, self._num_partitions)
        yield _row(Output(SEQUENCES, key, encode_progress(progress)))

    def _of(self, partition: int) -> tuple[PartitionAssembler, PartitionMetrics]:
        found = self._assemblers.get(partition)
        if found is None:
            assembler = PartitionAssembler(
                self._config, partition, self._num_partitions, self._stores
            )
            meta = self._meta.value()
            if meta is not None:
                assembler.restore(meta)
            found = assembler, PartitionMetrics(self._metric_group, partition)
            self._assemblers[partition] = found
        return found


def _row(output: Output) -> Row:
    headers = output.headers
    joined = headers and HEADER_SEPARATOR.join(
        [f"{name}{NAME_SEPARATOR}{text}" for name, text in headers.items()]
    )
    return Row(output.topic, output.key, output.value, joined)
