"""A real single-node Kafka broker (KRaft) as a child process, from jars fetched by Maven."""

from __future__ import annotations

import base64
import subprocess
import uuid
from pathlib import Path

from deploy.ports import free_ports, require_free
from deploy.processes import Child, await_condition, log_contains
from ingest.runtime.errors import ConfigError
from ingest.runtime.java import find_java

ROOT = Path(__file__).resolve().parent.parent
JARS = ROOT / "build" / "jars" / "kafka"
_HEAP = ["-Xms384m", "-Xmx512m", "-XX:+UseG1GC"]
_LOGGING = """status=ERROR
rootLogger.level=INFO
rootLogger.appenderRef.console.ref=CONSOLE
appender.console.type=Console
appender.console.name=CONSOLE
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{ISO8601} %p %c{1}: %m%n
"""


class Broker:
    """A running broker: where it listens and the process behind it."""

    def __init__(self, bootstrap: str, child: Child) -> None:
        self.bootstrap = bootstrap
        self.child = child

    def stop(self) -> None:
        """End the process; the data directory stays."""
        self.child.stop()


def start_broker(directory: Path, port: int = 0) -> Broker:
    """Format `directory` when it is new, start a broker on loopback, wait until it serves.

    Raises:
        ConfigError: no Java, no jars, or the port is taken.
        FreshetError: the broker died or was not ready in time; the message names its log.
    """
    java = find_java()
    if not list(JARS.glob("kafka_*.jar")):
        raise ConfigError(
            "Kafka's jars are missing", detail=f"{JARS} holds none.", hint="run: make setup"
        )
    if port:
        require_free(port)
        (controller_port,) = free_ports(1)
    else:
        port, controller_port = free_ports(2)
    directory.mkdir(parents=True, exist_ok=True)
    properties = directory / "server.properties"
    properties.write_text(_properties(directory / "data", port, controller_port))
    logging = directory / "log4j2.properties"
    logging.write_text(_LOGGING)
    command = [java, f"-Dlog4j2.configurationFile=file:{logging}", "-cp", f"{JARS}/*"]
    if not (directory / "data" / "meta.properties").exists():
        _format(command, properties)
    child = Child.start(
        "broker", [*command, *_HEAP, "kafka.Kafka", str(properties)], log=directory / "broker.log"
    )
    try:
        await_condition(log_contains(child, "Kafka Server started"), child, timeout_seconds=120)
    except BaseException:
        child.kill()  # nobody holds it yet: whatever ended the wait must not leave it behind
        raise
    return Broker(f"127.0.0.1:{port}", child)


def _format(command: list[str], properties: Path) -> None:
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    done = subprocess.run(
        # One argument: an id may begin with a dash.
        [
            *command,
            "kafka.tools.StorageTool",
            "format",
            f"--cluster-id={cluster_id}",
            "-c",
            str(properties),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ConfigError("formatting the broker's storage failed", detail=done.stderr[-2000:])


def _properties(data: Path, port: int, controller_port: int) -> str:
    settings = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(data),
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": "0",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        # Above the features job's timeout, which has to outlast any outage of that job.
        "transaction.max.timeout.ms": "7200000",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "log.retention.check.interval.ms": "300000",
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())
