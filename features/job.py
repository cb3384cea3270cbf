"""The Flink graph: Kafka source, micro-batches, one Python operator, one transactional sink.

    events --(raw bytes, partition, offset, arrival)--> gather per partition for micro_batch_seconds
      --> AssembleBatches, keyed by partition --> sequences | events.late | events.dead

Flink carries, stores, commits and scales. Its watermarks decide nothing: time is the partition
clock inside the operator.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pyflink.common import Configuration, Types
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.table import DataTypes, Schema, StatementSet, StreamTableEnvironment

from features.config import FeaturesConfig
from features.operator import HEADERS, ROW_TYPE, AssembleBatches
from ingest.runtime.topics import EVENTS, EVENTS_DEAD, EVENTS_LATE, SEQUENCES

# Below the broker's transaction.max.timeout.ms (deploy sets 2 h), above any outage to be survived:
# data that Flink has counted as committed is lost when its transaction times out first.
_TRANSACTION_TIMEOUT_MS = 3_600_000


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """Where a run of the job reads, writes and listens.

    Args:
        bootstrap: Kafka bootstrap servers.
        num_partitions: of `events` and of `sequences`.
        connector_jar: flink-sql-connector-kafka.
        checkpoints: directory of this run's checkpoints.
        restore: checkpoint to start from; None reads the log from its start.
        parallelism: of every operator.
        rest_port: Flink's REST API and web page, on 127.0.0.1; 0 picks a free one.
        metrics_port: Flink's Prometheus reporter.
        transactional_id_prefix: the same over all restarts, another for every other job.
    """

    bootstrap: str
    num_partitions: int
    connector_jar: Path
    checkpoints: Path
    restore: Path | None
    parallelism: int
    rest_port: int
    metrics_port: int
    transactional_id_prefix: str


def build(config: FeaturesConfig, wiring: Wiring) -> StatementSet:
    """The job, ready for `execute()`."""
    environment = StreamExecutionEnvironment.get_execution_environment(
        _configuration(config, wiring)
    )
    tables = StreamTableEnvironment.create(environment)
    tables.execute_sql(_source_sql(wiring))
    tables.execute_sql(_sink_sql(wiring))
    batches = tables.to_data_stream(tables.sql_query(_micro_batch_sql(config)))
    rows = (
        batches.key_by(lambda batch: batch[0], Types.INT())
        .process(AssembleBatches(config, wiring.num_partitions), ROW_TYPE)
        .name("assemble")
        .uid("assemble")
    )
    schema = Schema.new_builder().column("topic", DataTypes.STRING())
    schema = schema.column("key", DataTypes.STRING()).column("value", DataTypes.BYTES())
    for header in HEADERS:
        schema = schema.column(header, DataTypes.STRING())
    tables.create_temporary_view("outputs", tables.from_data_stream(rows, schema.build()))
    statements = tables.create_statement_set()
    statements.add_insert_sql(_INSERT_SQL)
    return statements


def _configuration(config: FeaturesConfig, wiring: Wiring) -> Configuration:
    settings = {
        "pipeline.name": "freshet-features",
        "pipeline.jars": wiring.connector_jar.resolve().as_uri(),
        "pipeline.object-reuse": "true",
        # Key groups are part of stored state: fixed, so that parallelism can change at a restore.
        "pipeline.max-parallelism": "128",
        "parallelism.default": str(wiring.parallelism),
        "python.execution-mode": "thread",
        "execution.runtime-mode": "STREAMING",
        "execution.checkpointing.dir": wiring.checkpoints.resolve().as_uri(),
        "execution.checkpointing.savepoint-dir": wiring.checkpoints.resolve().as_uri(),
        "execution.checkpointing.interval": f"{int(config.checkpoint_interval_seconds * 1000)} ms",
        "execution.checkpointing.mode": "EXACTLY_ONCE",
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "execution.checkpointing.num-retained": "2",
        "execution.checkpointing.tolerable-failed-checkpoints": "10",
        "restart-strategy.type": "exponential-delay",
        "restart-strategy.exponential-delay.initial-backoff": "1 s",
        "restart-strategy.exponential-delay.max-backoff": "10 s",
        "restart-strategy.exponential-delay.attempts-before-reset-backoff": "10",
        "rest.address": "127.0.0.1",
        "rest.bind-address": "127.0.0.1",
        "rest.port": str(wiring.rest_port),
        "rest.bind-port": str(wiring.rest_port),
        "metrics.reporters": "prometheus",
        "metrics.reporter.prometheus.factory.class": (
            "org.apache.flink.metrics.prometheus.PrometheusReporterFactory"
        ),
        "metrics.reporter.prometheus.port": str(wiring.metrics_port),
        "table.local-time-zone": "UTC",
    }
    if wiring.restore is not None:
        settings["execution.state-recovery.path"] = wiring.restore.resolve().as_uri()
    configuration = Configuration()
    for name, value in settings.items():
        configuration.set_string(name, value)
    return configuration


def _source_sql(wiring: Wiring) -> str:
    # Partitions found later would move users away from their state: discovery is off.
    return f"""
        CREATE TEMPORARY TABLE events (
            v BYTES,
            p INT NOT NULL METADATA FROM 'partition' VIRTUAL,
            o BIGINT NOT NULL METADATA FROM 'offset' VIRTUAL,
            arrival TIMESTAMP_LTZ(3) NOT NULL METADATA FROM 'timestamp' VIRTUAL,
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


def _micro_batch_sql(config: FeaturesConfig) -> str:
    # Bytes become characters one to one (ISO-8859-1), so a record can hold neither separator; a
    # record without a value (a tombstone) becomes an empty one instead of vanishing.
    return rf"""
        SELECT p, ENCODE(ARRAY_JOIN(ARRAY_AGG(
            CAST(o AS STRING) || U&'\0101'
            || CAST(EXTRACT(EPOCH FROM arrival) * 1000 + EXTRACT(MILLISECOND FROM arrival) AS STRING)
            || U&'\0101' || COALESCE(DECODE(v, 'ISO-8859-1'), '')
        ), U&'\0100'), 'UTF-8') AS payload
        FROM events
        GROUP BY p, TUMBLE(gathered, INTERVAL '{config.micro_batch_seconds:.3f}' SECOND)"""


_INSERT_SQL = """
    INSERT INTO messages SELECT key, `value`, topic, CASE
        WHEN reason IS NULL THEN CAST(NULL AS MAP<STRING, BYTES>)
        WHEN late_ms IS NULL THEN MAP['reason', ENCODE(reason, 'UTF-8'),
            'detail', ENCODE(detail, 'UTF-8'), 'source', ENCODE(source, 'UTF-8')]
        ELSE MAP['reason', ENCODE(reason, 'UTF-8'),
            'late_ms', ENCODE(late_ms, 'UTF-8'), 'source', ENCODE(source, 'UTF-8')]
    END FROM outputs"""
