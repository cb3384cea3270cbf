"""Runs the job until it is told to stop: start, restore, watch, savepoint, end."""

from __future__ import annotations

import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from py4j.protocol import Py4JError  # type: ignore[import-untyped]
from pyflink.java_gateway import get_gateway
from pyflink.util.exceptions import JavaException
from structlog.stdlib import BoundLogger

from features.checkpoints import delete_runs_before, newest_checkpoint, next_run
from features.config import FeaturesConfig
from features.gateway import Gateway, end_orphan, start_gateway
from features.job import Wiring, build
from features.options import job_options, local_options
from features.preconditions import (
    note_topics,
    require_aligned_topics,
    require_no_sequences,
    require_same_topics,
    require_unread_events,
)
from features.settings import FeaturesSettings
from ingest.runtime.errors import ConfigError, FreshetError
from ingest.runtime.lock import lock_directory
from ingest.runtime.service import StopSignal

_POLL_SECONDS = 0.5
_SAVEPOINT_TIMEOUT_SECONDS = 60
_RUNNING = {"INITIALIZING", "CREATED", "RUNNING", "RESTARTING", "FAILING", "RECONCILING"}


def run_job(settings: FeaturesSettings, stop: StopSignal, log: BoundLogger) -> None:
    """Run the features job from its newest checkpoint until `stop`, then end it with a savepoint.

    Raises:
        ConfigError: a setting cannot work, or Java or the connector is missing.
        BrokerError: the broker does not answer or the topics do not fit.
        FreshetError: the job failed more often than it may be restarted, or its JVM died.
    """
    if not settings.connector_jar.is_file():
        raise ConfigError(
            "Flink's Kafka connector is missing",
            detail=f"{settings.connector_jar} is no file.",
            hint="run: make setup, or set FRESHET_FEATURES_CONNECTOR_JAR",
        )
    _require_free(settings.rest_port)
    _require_free(settings.metrics_port)
    hint = "stop the other features job, or set another FRESHET_FEATURES_STATE_DIRECTORY"
    with lock_directory(settings.state_directory, hint=hint):
        end_orphan(settings.state_directory)
        prepared = _prepare(settings)
        gateway = start_gateway(settings.heap_mb, settings.state_directory)
        try:
            options = prepared.options | local_options(
                connector_jar=settings.connector_jar,
                scratch=_empty(settings.state_directory / "scratch"),
                state_memory_mb=settings.state_memory_mb,
                parallelism=settings.parallelism,
                rest_port=settings.rest_port,
                metrics_port=settings.metrics_port,
            )
            client = _execute(prepared, options, settings, log)
            _watch(client, gateway, prepared.run, stop, log)
            _end(client, prepared.run, log)
        finally:
            gateway.stop()


def submit_job(settings: FeaturesSettings, log: BoundLogger) -> None:
    """Hand the job to the cluster that `flink run` names, and leave it there.

    What a cluster has of its own stays its own: memory, ports, metrics, the connector (`-j`).
    `state_directory` must be one that all its machines see. The job's predecessor must be stopped:
    where it runs no lock of ours can tell.

    Raises:
        ConfigError: the topics do not fit the state.
        BrokerError: the broker does not answer or the topics do not fit.
        FreshetError: Flink refused the job.
    """
    settings.state_directory.mkdir(parents=True, exist_ok=True)
    prepared = _prepare(settings)
    client = _execute(prepared, prepared.options, settings, log)
    log.info("submitted", job=str(client.get_job_id()))


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """A run that may start: its semantics, its topics, Flink's options, where its state goes."""

    config: FeaturesConfig
    wiring: Wiring
    options: dict[str, str]
    run: Path


def _prepare(settings: FeaturesSettings) -> _Prepared:
    config = settings.config()
    num_partitions = require_aligned_topics(settings.bootstrap)
    restore = newest_checkpoint(settings.state_directory / "checkpoints")
    if restore is None:
        require_no_sequences(settings.bootstrap, num_partitions)
        note_topics(settings.bootstrap, settings.state_directory)
    else:
        require_same_topics(settings.bootstrap, settings.state_directory)
        group = settings.transactional_id_prefix
        require_unread_events(settings.bootstrap, group, num_partitions)
    run = next_run(settings.state_directory / "checkpoints")
    return _Prepared(
        config=config,
        wiring=Wiring(
            bootstrap=settings.bootstrap,
            num_partitions=num_partitions,
            transactional_id_prefix=settings.transactional_id_prefix,
        ),
        options=job_options(
            config,
            parallelism=settings.parallelism,
            backend=settings.state_backend,
            checkpoints=run,
            restore=restore,
        ),
        run=run,
    )


def _execute(
    prepared: _Prepared, options: dict[str, str], settings: FeaturesSettings, log: BoundLogger
) -> Any:
    restored = options.get("execution.state-recovery.path")
    log.info("starting", run=prepared.run.name, restore=restored)
    try:
        return build(prepared.config, prepared.wiring, options).execute_async()
    except (Py4JError, JavaException) as error:
        raise FreshetError(
            "the Flink job did not start",
            detail=_cause(error),
            hint=f"read the log in {settings.state_directory / 'log'}",
        ) from error


def _empty(directory: Path) -> Path:
    """Make a directory, or make it anew: a killed predecessor leaves its files."""
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    return directory


def _require_free(port: int) -> None:
    # Flink only notes a taken metrics port in its log, and reports a taken REST port much later.
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                "port not free",
                detail=f"127.0.0.1:{port}: {error.strerror}.",
                hint="set another FRESHET_FEATURES_REST_PORT or FRESHET_FEATURES_METRICS_PORT",
            ) from error


def _cause(error: Exception) -> str:
    lines = str(error).splitlines()
    causes = [line for line in lines if line.startswith("Caused by: ")]
    return (causes or lines or [repr(error)])[-1].removeprefix("Caused by: ")


def _watch(client: Any, gateway: Gateway, run: Path, stop: StopSignal, log: BoundLogger) -> None:
    """Wait for the stop signal; report the job's state when it changes."""
    before = ""
    while not stop.wait(_POLL_SECONDS):
        gateway.check_alive()
        try:
            status = client.get_job_status().result().name
        except (Py4JError, JavaException) as error:
            # A job that failed for good takes its cluster along: nobody is left to answer.
            raise _ended(_cause(error)) from error
        if status != before:
            log.info("job state", state=status)
            before = status
        if status not in _RUNNING:
            raise _ended(f"Its state is {status}.")
        delete_runs_before(run)


def _ended(detail: str) -> FreshetError:
    return FreshetError(
        "the Flink job ended",
        detail=detail,
        hint="read Flink's log; start again to resume from the last checkpoint",
        retriable=True,
    )


def _end(client: Any, run: Path, log: BoundLogger) -> None:
    """Stop the job with a savepoint, so that nothing is left uncommitted.

    Without one nothing is lost either: the next start resumes from the last checkpoint.
    """
    # PyFlink's own stop_with_savepoint calls a Java method that Flink 2 no longer has.
    java = get_gateway().jvm
    try:
        future = client._j_job_client.stopWithSavepoint(
            False,
            run.resolve().as_uri(),
            java.org.apache.flink.core.execution.SavepointFormatType.CANONICAL,
        )
        savepoint = future.get(
            _SAVEPOINT_TIMEOUT_SECONDS, java.java.util.concurrent.TimeUnit.SECONDS
        )
    except Py4JError as error:
        raise FreshetError(
            "stopping with a savepoint failed",
            detail=_cause(error),
            hint="start again: it resumes from the last checkpoint",
            retriable=True,
        ) from error
    log.info("stopped", savepoint=savepoint)
