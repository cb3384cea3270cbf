"""The services of a local run, as processes on loopback: started in order, watched, surely stopped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import httpx
from prometheus_client.parser import text_string_to_metric_families

from deploy.broker import ROOT, Broker, start_broker
from deploy.ports import free_ports
from deploy.processes import Child, await_condition
from ingest.runtime.errors import ConfigError, FreshetError
from ingest.runtime.kafka import create_topics

_READY_SECONDS = 180.0


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """What differs between two local runs.

    `settings` adds environment variables for all services; `num_partitions` is that of `events`
    and `sequences`; `num_ranks` how many trainer processes share the table.
    """

    directory: Path
    num_partitions: int = 2
    num_ranks: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("num_partitions", "num_ranks"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1", detail=f"{getattr(self, name)}.")
        if self.num_ranks > self.num_partitions:
            raise ConfigError(
                "more ranks than partitions",
                detail=f"{self.num_ranks} ranks, {self.num_partitions} partitions.",
                hint="a rank owns whole partitions: raise num_partitions",
            )


@dataclass(frozen=True, kw_only=True)
class Service:
    """How one service is run: its command, its environment, where its metrics answer."""

    name: str
    command: tuple[str, ...]
    settings: Mapping[str, str]
    metrics_url: str


class LocalStack:
    """Broker, features job, trainer, publisher and serving below one directory.

    A context manager: whatever happens inside, nothing it started outlives it.
    """

    def __init__(self, config: StackConfig) -> None:
        self.config = config
        self.directory = config.directory
        self.exports = self.directory / "exports"
        self.checkpoints = self.directory / "checkpoints"
        self.snapshots = self.directory / "snapshots"
        self.ne_log = self.directory / "ne.jsonl"
        self._children: dict[str, Child] = {}
        self._broker: Broker | None = None
        ports = free_ports(5)
        self._serving_port, self._trainer_port, self._publisher_port = ports[:3]
        self._flink_port, self._flink_metrics_port = ports[3:]

    def __enter__(self) -> LocalStack:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def bootstrap(self) -> str:
        """Where the broker listens."""
        assert self._broker is not None, "the broker is started first"
        return self._broker.bootstrap

    @property
    def serving_url(self) -> str:
        """Where requests go."""
        return f"http://127.0.0.1:{self._serving_port}"

    def start_broker(self) -> None:
        """Start Kafka and create the topics."""
        self._broker = start_broker(self.directory / "broker")
        self._children["broker"] = self._broker.child
        create_topics(self.bootstrap, self.config.num_partitions)

    def services(self) -> tuple[Service, ...]:
        """The services beside the broker, in the order of the data."""
        return (self.features(), self.trainer(), self.publisher(), self.serving())

    def features(self) -> Service:
        """The PyFlink job."""
        return Service(
            name="features",
            command=(sys.executable, "-m", "features"),
            settings={
                "FRESHET_FEATURES_STATE_DIRECTORY": str(self.directory / "flink"),
                "FRESHET_FEATURES_REST_PORT": str(self._flink_port),
                "FRESHET_FEATURES_METRICS_PORT": str(self._flink_metrics_port),
            },
            metrics_url=f"http://127.0.0.1:{self._flink_metrics_port}/metrics",
        )

    def trainer(self) -> Service:
        """The trainer, one process a rank."""
        ranks = self.config.num_ranks
        module = (sys.executable, "-m", "trainer")
        torchrun = (
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            f"--nproc-per-node={ranks}", "-m", "trainer",
        )  # fmt: skip
        return Service(
            name="trainer",
            command=module if ranks == 1 else torchrun,
            settings={
                "FRESHET_TRAINER_CHECKPOINT_DIR": str(self.checkpoints),
                "FRESHET_TRAINER_EXPORT_DIR": str(self.exports),
                "FRESHET_TRAINER_NE_LOG": str(self.ne_log),
                "FRESHET_TRAINER_METRICS_PORT": str(self._trainer_port),
            },
            metrics_url=f"http://127.0.0.1:{self._trainer_port}/metrics",
        )

    def publisher(self) -> Service:
        """What turns hand-overs into published versions."""
        return Service(
            name="publisher",
            command=(sys.executable, "-m", "publisher"),
            settings={
                "FRESHET_PUBLISHER_EXPORTS": str(self.exports),
                "FRESHET_PUBLISHER_STORE": str(self.snapshots),
                "FRESHET_PUBLISHER_METRICS_PORT": str(self._publisher_port),
            },
            metrics_url=f"http://127.0.0.1:{self._publisher_port}/metrics",
        )

    def serving(self) -> Service:
        """The HTTP server."""
        return Service(
            name="serving",
            command=(sys.executable, "-m", "publisher.serving"),
            settings={
                "FRESHET_SERVING_STORE": str(self.snapshots),
                "FRESHET_SERVING_PORT": str(self._serving_port),
            },
            metrics_url=f"{self.serving_url}/metrics",
        )

    def start(self, service: Service) -> Child:
        """Start one service, or start it again."""
        child = Child.start(
            service.name,
            service.command,
            log=self.directory / "logs" / f"{service.name}.log",
            env={
                "FRESHET_BOOTSTRAP": self.bootstrap,
                "PYTHONPATH": str(ROOT),
                **service.settings,
                **self.config.settings,
            },
            cwd=ROOT,
        )
        self._children[service.name] = child
        return child

    def child(self, name: str) -> Child:
        """The running process of a service."""
        return self._children[name]

    def await_ready(self, service: Service) -> None:
        """Wait until the service's metrics answer: it has read its settings and is at work."""
        await_condition(
            answers(service.metrics_url), self.child(service.name), timeout_seconds=_READY_SECONDS
        )

    def check_alive(self) -> None:
        """Raise ProcessDied when any service ended."""
        for child in self._children.values():
            child.check_alive()

    def stop(self) -> None:
        """End everything; the broker, started first, outlives those who speak to it."""
        services = [child for name, child in self._children.items() if name != "broker"]
        try:
            for child in services:
                child.terminate()
            for child in services:
                child.stop()
            if self._broker is not None:
                self._broker.stop()
        finally:
            # Asked to stop once more while stopping: no more grace, but nothing left behind.
            for child in self._children.values():
                child.kill()
        self._children.clear()


def answers(url: str) -> Callable[[], bool]:
    """A condition: `url` answers with status 200."""

    def asked() -> bool:
        try:
            return httpx.get(url, timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    return asked


def scrape(url: str) -> dict[str, float]:
    """Every sample of a metrics page, its labels added up.

    Raises:
        FreshetError: the page does not answer.
    """
    try:
        text = httpx.get(url, timeout=5).raise_for_status().text
    except httpx.HTTPError as error:
        raise FreshetError("metrics do not answer", detail=f"{url}: {error}.") from error
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    return totals
