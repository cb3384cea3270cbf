"""Flink's own options: what every run of the job needs, and what only a cluster of one JVM does."""

from __future__ import annotations

from pathlib import Path

from features.config import FeaturesConfig
from features.placement import NUM_KEY_GROUPS

_REPORTER = "org.apache.flink.metrics.prometheus.PrometheusReporterFactory"


def job_options(
    config: FeaturesConfig,
    *,
    parallelism: int,
    backend: str,
    checkpoints: Path,
    restore: Path | None,
) -> dict[str, str]:
    """What belongs to the job, wherever it runs.

    Args:
        config: for the rhythm of checkpoints.
        parallelism: of every operator.
        backend: `hashmap` keeps state on the heap and writes all of it with every checkpoint;
            `rocksdb` keeps it on disk, in bounded memory, and writes what changed.
        checkpoints: directory of this run's checkpoints and savepoints.
        restore: checkpoint to start from; None reads the log from its start.
    """
    directory = checkpoints.resolve().as_uri()
    options = {
        "pipeline.name": "freshet-features",
        "pipeline.object-reuse": "true",
        # A savepoint is found again by uid; an operator without one is an error.
        "pipeline.auto-generate-uids": "false",
        "pipeline.max-parallelism": str(NUM_KEY_GROUPS),
        "parallelism.default": str(parallelism),
        "python.execution-mode": "thread",
        "execution.runtime-mode": "STREAMING",
        "state.backend.type": backend,
        "execution.checkpointing.incremental": str(backend == "rocksdb").lower(),
        "execution.checkpointing.dir": directory,
        "execution.checkpointing.savepoint-dir": directory,
        "execution.checkpointing.interval": f"{int(config.checkpoint_interval_seconds * 1000)} ms",
        "execution.checkpointing.mode": "EXACTLY_ONCE",
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "execution.checkpointing.num-retained": "2",
        "execution.checkpointing.tolerable-failed-checkpoints": "10",
        "restart-strategy.type": "exponential-delay",
        "restart-strategy.exponential-delay.initial-backoff": "1 s",
        "restart-strategy.exponential-delay.max-backoff": "10 s",
        "restart-strategy.exponential-delay.attempts-before-reset-backoff": "10",
        "table.local-time-zone": "UTC",
    }
    if restore is not None:
        options["execution.state-recovery.path"] = restore.resolve().as_uri()
    return options


def local_options(
    *,
    connector_jar: Path,
    scratch: Path,
    state_memory_mb: int,
    parallelism: int,
    rest_port: int,
    metrics_port: int,
) -> dict[str, str]:
    """What a cluster inside our own JVM needs and a session cluster has by itself.

    Args:
        connector_jar: flink-sql-connector-kafka.
        scratch: where RocksDB keeps its files while it runs.
        state_memory_mb: memory of RocksDB, over all tasks.
        parallelism: how many tasks of each operator there are room for.
        rest_port: Flink's REST API and web page, on 127.0.0.1; 0 picks a free one.
        metrics_port: Flink's Prometheus reporter.
    """
    return {
        "pipeline.jars": connector_jar.resolve().as_uri(),
        "taskmanager.numberOfTaskSlots": str(parallelism),
        "taskmanager.memory.managed.size": f"{state_memory_mb} mb",
        "io.tmp.dirs": str(scratch.resolve()),
        "rest.address": "127.0.0.1",
        "rest.bind-address": "127.0.0.1",
        "rest.port": str(rest_port),
        "rest.bind-port": str(rest_port),
        "metrics.reporters": "prometheus",
        "metrics.reporter.prometheus.factory.class": _REPORTER,
        "metrics.reporter.prometheus.port": str(metrics_port),
    }
