"""Child processes: watched, explained when they die, never left behind."""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path

import pytest

from deploy.broker import start_broker
from deploy.ports import free_ports, require_free
from deploy.processes import Child, ProcessDied, await_condition, log_contains
from ingest.runtime.errors import ConfigError, FreshetError

SLEEPER = "import time; print('ready', flush=True); time.sleep(600)"
FAMILY = (
    "import subprocess, sys, time;"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
    "print('child', child.pid, flush=True); time.sleep(600)"
)


def python(tmp_path: Path, code: str, name: str = "service") -> Child:
    return Child.start(name, [sys.executable, "-c", code], log=tmp_path / f"{name}.log")


def test_a_child_that_dies_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = python(tmp_path, "print('the reason'); raise SystemExit(3)")
    with pytest.raises(ProcessDied, match=r"service ended with status 3") as caught:
        await_condition(lambda: False, child, timeout_seconds=60)
    assert "the reason" in str(caught.value)


def test_a_child_that_is_never_ready_is_an_error_that_names_its_log(tmp_path: Path) -> None:
    child = python(tmp_path, SLEEPER)
    try:
        with pytest.raises(FreshetError, match="not ready"):
            await_condition(lambda: False, child, timeout_seconds=0)
    finally:
        child.kill()


def test_a_restarted_child_is_not_taken_for_ready_by_its_predecessors_log(tmp_path: Path) -> None:
    first = python(tmp_path, SLEEPER)
    await_condition(log_contains(first, "ready"), first, timeout_seconds=60)
    first.kill()
    second = python(tmp_path, "import time; time.sleep(600)")
    try:
        assert not log_contains(second, "ready")()
    finally:
        second.kill()


def test_killing_a_child_ends_its_children_too(tmp_path: Path) -> None:
    child = python(tmp_path, FAMILY)
    await_condition(log_contains(child, "child "), child, timeout_seconds=60)
    grandchild = int(child.log_text().split()[1])
    ended = select.poll()
    ended.register(os.pidfd_open(grandchild), select.POLLIN)
    child.kill()
    assert child.returncode == -signal.SIGKILL
    assert ended.poll(60_000), "the grandchild outlived its parent"


def test_a_port_in_use_is_named_with_how_to_find_who_has_it() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
            require_free(port)


def test_free_ports_are_different() -> None:
    assert len(set(free_ports(20))) == 20


def test_without_java_the_broker_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(ConfigError, match="Java 17"):
        start_broker(tmp_path / "broker")


def test_without_jars_the_error_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.broker.JARS", tmp_path)
    with pytest.raises(ConfigError, match="make setup"):
        start_broker(tmp_path / "broker")
