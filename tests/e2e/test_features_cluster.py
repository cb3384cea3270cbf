"""The same job handed to a session cluster by `flink run -py`: what it writes is what offline writes."""

from __future__ import annotations

import json
import os
import re
import shutil
import site
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyflink
import pytest

from deploy.broker import Broker
from deploy.ports import free_ports
from deploy.processes import Child, await_condition
from features.config import FeaturesConfig
from ingest.runtime.kafka import create_topics
from tests.features.faulty import feed
from tests.features.job_runs import (
    ROOT,
    Follower,
    committed,
    connector_jar,
    expected,
    job_environment,
)

FLINK = Path(pyflink.__file__).parent
NUM_PARTITIONS = 2
CONFIG = FeaturesConfig(emit_after_ms=90_000, checkpoint_interval_seconds=0.5)
TIMEOUT_SECONDS = 300


class SessionCluster:
    """A job manager and a task manager of the Flink in PyFlink's package, as its scripts start them."""

    def __init__(self, directory: Path) -> None:
        rpc_port, rest_port = free_ports(2)
        self.rest = f"127.0.0.1:{rest_port}"
        conf = directory / "conf"
        conf.mkdir(parents=True)
        for path in (FLINK / "conf").glob("log4j*.properties"):
            shutil.copy(path, conf)
        # The modules of Java that Flink reaches into.
        shipped = (FLINK / "conf" / "config.yaml").read_text()
        java_options = re.search(r"^ *all: (.*)$", shipped, re.MULTILINE)
        assert java_options is not None
        options = {
            "env.java.opts.all": java_options[1],
            # Python can be loaded once into a JVM: by the cluster, not by each job's own loader.
            "classloader.parent-first-patterns.additional": "pemja.",
            "jobmanager.rpc.address": "127.0.0.1",
            "jobmanager.rpc.port": rpc_port,
            "jobmanager.bind-host": "127.0.0.1",
            "jobmanager.memory.process.size": "800m",
            "taskmanager.host": "127.0.0.1",
            "taskmanager.bind-host": "127.0.0.1",
            "taskmanager.numberOfTaskSlots": 2,
            "taskmanager.memory.process.size": "1200m",
            "rest.address": "127.0.0.1",
            "rest.bind-address": "127.0.0.1",
            "rest.port": rest_port,
        }
        lines = [f"{name}: {value}" for name, value in options.items()]
        (conf / "config.yaml").write_text("\n".join(lines) + "\n")
        self.environment = {
            "FLINK_CONF_DIR": str(conf),
            "FLINK_LOG_DIR": str(directory / "log"),
            "HADOOP_CLASSPATH": str(next((FLINK / "opt").glob("flink-python-*.jar"))),
            # Where the cluster's machines have the project installed, this is not needed.
            "PYTHONPATH": os.pathsep.join([str(ROOT), *site.getsitepackages()]),
        }
        self._children = [
            Child.start(
                name,
                ["bash", str(FLINK / "bin" / f"{name}.sh"), "start-foreground"],
                log=directory / f"{name}.log",
                env=self.environment,
            )
            for name in ("jobmanager", "taskmanager")
        ]

    def await_slots(self) -> None:
        await_condition(self._has_slots, self._children[0], timeout_seconds=TIMEOUT_SECONDS)

    def _has_slots(self) -> bool:
        try:
            return bool(httpx.get(f"http://{self.rest}/overview").json()["slots-available"])
        except (httpx.HTTPError, KeyError):
            return False

    def task_manager(self) -> Child:
        return self._children[1]

    def close(self) -> None:
        for child in self._children:
            child.kill()

    def flink(self, *arguments: str, env: dict[str, str]) -> str:
        """Run Flink's command line, and return what it said."""
        done = subprocess.run(
            ["bash", str(FLINK / "bin" / "flink"), *arguments],
            env={**os.environ, **self.environment, **env},
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout + done.stderr


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SessionCluster]:
    started = SessionCluster(tmp_path / "cluster")
    yield started
    started.close()


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_the_job_submitted_to_a_session_cluster_goes_on_from_its_savepoint(
    broker: Broker, cluster: SessionCluster, tmp_path: Path
) -> None:
    create_topics(broker.bootstrap, NUM_PARTITIONS)
    settings = job_environment(broker.bootstrap, tmp_path / "job", CONFIG, parallelism="2")
    cluster.await_slots()
    for seed in (0, 1):
        feed(broker.bootstrap, NUM_PARTITIONS, seed, num_events=1_000)
        said = cluster.flink(
            "run", "-d", "-m", cluster.rest, "-j", str(connector_jar()),
            "-pyexec", sys.executable, "-pyclientexec", sys.executable,
            "-py", "features/__main__.py", env=settings,
        )  # fmt: skip
        submitted = re.search(r"^\{.*\"submitted\".*\}$", said, re.MULTILINE)
        assert submitted, said
        follower = Follower(broker.bootstrap)
        await_condition(follower.caught_up, cluster.task_manager(), timeout_seconds=TIMEOUT_SECONDS)
        run = max((tmp_path / "job" / "checkpoints").iterdir())
        job = json.loads(submitted[0])["job"]
        cluster.flink("stop", "-m", cluster.rest, "-p", run.as_uri(), job, env={})
        assert committed(broker.bootstrap).differences(expected(broker.bootstrap, CONFIG)) == []
