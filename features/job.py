"""The Flink graph: Kafka source, micro-batches, one Python operator, one transactional sink.

    events --(raw bytes, partition, offset, arrival)--> gather per partition for micro_batch_seconds
      --> AssembleBatches, keyed by partition --> sequences | events.late | events.dead

Flink carries, stores, commits and scales. Its watermarks decide nothing: time is the partition
clock inside the operator.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyflink.common import Configuration, Types
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.table import DataTypes, Schema, StreamTableEnvironment

from features.config import FeaturesConfig
from features.operator import ROW_TYPE, AssembleBatches
from features.placement import operator_keys, window_keys
from ingest.runtime.topics import EVENTS, EVENTS_DEAD, EVENTS_LATE, SEQUENCES

# Below the broker's transaction.max.timeout.ms (deploy sets 2 h), above any outage to be survived:
# data that Flink has counted as committed is lost when its transaction times out first.
_TRANSACTION_TIMEOUT_MS = 3_600_000
_COUNTER = re.compile(r"\[\d+\]")


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """Where the job reads and writes.

    Args:
        bootstrap: Kafka bootstrap servers.
        num_partitions: of `events` and of `sequences`.
        transactional_id_prefix: the same over all restarts, another for every other job.
    """

    bootstrap: str
    num_partitions: int
    transactional_id_prefix: str


def build(
    config: FeaturesConfig, wiring: Wiring, options: Mapping[str, str]
) -> StreamExecutionEnvironment:
    """The job, ready for `execute_async()`.

    Args:
        config: the semantics.
        wiring: where it reads and writes.
        options: Flink's own, see `features.options`.
    """
    configuration = Configuration()
    for name, value in options.items():
        configuration.set_string(name, value)
    environment = StreamExecutionEnvironment.get_execution_environment(configuration)
    tables = StreamTableEnvironment.create(environment)
    tables.execute_sql(_source_sql(wiring))
    tables.execute_sql(_sink_sql(wiring))
    batches = tables.to_data_stream(tables.sql_query(_micro_batch_sql(config, wiring)))
    keys = operator_keys(wiring.num_partitions)
    rows = batches.key_by(lambda batch: keys[batch[0]], Types.INT()).process(
        AssembleBatches(config, wiring.num_partitions), ROW_TYPE
    )
    schema = Schema.new_builder().column("topic", DataTypes.STRING())
    schema = schema.column("key", DataTypes.STRING()).column("value", DataTypes.BYTES())
    schema = schema.column("headers", DataTypes.STRING())
    outputs = tables.from_data_stream(rows.name("assemble"), schema.build())
    tables.create_temporary_view("outputs", outputs)
    statements = tables.create_statement_set()
    statements.add_insert_sql(_INSERT_SQL)
    statements.attach_as_datastream()
    _name_states(environment)
    return environment


def _name_states(environment: StreamExecutionEnvironment) -> None:
    """Give every operator a uid, by which a savepoint finds it in a later version of the graph.

    The planner's names are its operators' kinds and a running number, which any change shifts.
    """
    seen: Counter[str] = Counter()
    done: set[int] = set()

    def walk(step: Any) -> None:
        if step.getId() in done:
            return
        done.add(step.getId())
        for before in step.getInputs():
            walk(before)
        kind = _COUNTER.sub("", step.getName())
        seen[kind] += 1
        step.setUid(kind if seen[kind] == 1 else f"{kind} {seen[kind]}")

    for sink in environment._j_stream_execution_environment.getTransformations():
        walk(sink)


def _source_sql(wiring: Wiring) -> str:
    # Partitions found later would move users away from their state: discovery is off.
    lanes = " ".join(
        f"WHEN {partition} THEN {key}"
        for partition, key in enumerate(window_keys(wiring.num_partitions))
    )
    return f"""
        CREATE TEMPORARY TABLE events (
            v BYTES,
            p INT NOT NULL METADATA FROM 'partition' VIRTUAL,
            o BIGINT NOT NULL METADATA FROM 'offset' VIRTUAL,
            arrival TIMESTAMP_LTZ(3) NOT NULL METADATA FROM 'timestamp' VIRTUAL,
            lane AS CASE p {lanes} END,
            gathered AS PROCTIME()
        ) WITH (
            'connector' = 'kafka',
            'topic' = '{EVENTS}',
            'properties.bootstrap.servers' = '{wiring.bootstrap}',
            'properties.group.id' = '{wiring.transactional_id_prefix}',
            'properties.isolation.level' = 'read_committed',
            'scan.startup.mode' = 'earliest-offset',
            'scan.topic-partition-discovery.interval' = '0 s',
            'format' = 'raw'
        )"""


def _sink_sql(wiring: Wiring) -> str:
    return f"""
        CREATE TEMPORARY TABLE messages (
            k STRING,
            v BYTES,
            topic STRING METADATA,
            headers MAP<STRING, BYTES> METADATA
        ) WITH (
            'connector' = 'kafka',
            'topic' = '{SEQUENCES};{EVENTS_LATE};{EVENTS_DEAD}',
            'properties.bootstrap.servers' = '{wiring.bootstrap}',
            'properties.transaction.timeout.ms' = '{_TRANSACTION_TIMEOUT_MS}',
            'properties.linger.ms' = '20',
            'properties.compression.type' = 'lz4',
            'key.format' = 'raw',
            'key.fields' = 'k',
            'value.format' = 'raw',
            'value.fields-include' = 'EXCEPT_KEY',
            'sink.delivery-guarantee' = 'exactly-once',
            'sink.transactional-id-prefix' = '{wiring.transactional_id_prefix}'
        )"""


def _micro_batch_sql(config: FeaturesConfig, wiring: Wiring) -> str:
    # Bytes become characters one to one (ISO-8859-1), so a record can hold neither separator; a
    # record without a value (a tombstone) becomes an empty one instead of vanishing.
    return rf"""
        SELECT MOD(lane, {wiring.num_partitions}), ENCODE(ARRAY_JOIN(ARRAY_AGG(
            CAST(o AS STRING) || U&'\0101'
            || CAST(EXTRACT(EPOCH FROM arrival) * 1000 + EXTRACT(MILLISECOND FROM arrival) AS STRING)
            || U&'\0101' || COALESCE(DECODE(v, 'ISO-8859-1'), '')
        ), U&'\0100'), 'UTF-8') AS payload
        FROM events
        GROUP BY lane, TUMBLE(gathered, INTERVAL '{config.micro_batch_seconds:.3f}' SECOND)"""


_INSERT_SQL = """
    INSERT INTO messages SELECT key, `value`, topic,
        CAST(STR_TO_MAP(headers, U&'\\0001', U&'\\0002') AS MAP<STRING, BYTES>)
    FROM outputs"""
