"""The doctor names what is missing and what to do about it."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import doctor
from tests.project.sources import ROOT


@pytest.fixture
def empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def write_command(folder: Path, name: str, script: str) -> None:
    command = folder / name
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)


def test_without_java_the_fix_names_the_package(empty_path: Path) -> None:
    finding = doctor.check_java()
    assert not finding.good
    assert "openjdk-17-jre-headless" in finding.fix


@pytest.mark.parametrize(
    ("line", "good"),
    [
        ('openjdk version "17.0.15" 2025-04-15', True),
        ('openjdk version "21" 2023-09-19', True),
        ('java version "1.8.0_392"', False),
        ('openjdk version "11.0.2" 2019-01-15', False),
        ("nonsense", False),
    ],
)
def test_java_must_be_new_enough(empty_path: Path, line: str, good: bool) -> None:
    write_command(empty_path, "java", f"echo '{line}' >&2")
    finding = doctor.check_java()
    assert finding.good is good
    assert line in finding.seen


def test_without_maven_or_a_compiler_the_fix_names_the_package(empty_path: Path) -> None:
    assert "maven" in doctor.check_command("mvn", "apt-get install maven").fix
    compiler = doctor.check_compiler()
    assert (compiler.good, compiler.fix) == (False, "apt-get install g++")


def test_a_port_in_use_is_named_with_what_to_do() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        ports = doctor.configured_ports({"FRESHET_SERVING_PORT": str(port), "OTHER_PORT": "1"})
        loopback, taken = doctor.check_ports(ports)
    assert loopback.good
    assert (taken.name, taken.good) == ("FRESHET_SERVING_PORT", False)
    assert str(port) in taken.fix


@pytest.mark.parametrize("port", ["http", "70000", "-1", ""])
def test_what_is_no_port_is_found(port: str) -> None:
    (finding,) = doctor.check_ports({"FRESHET_SERVING_PORT": port})
    assert not finding.good


def test_a_broker_that_answers_and_one_that_does_not() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = "{}:{}".format(*listener.getsockname())
        (finding,) = doctor.check_broker(address)
        assert finding.good
    (finding,) = doctor.check_broker(address)
    assert not finding.good
    assert "FRESHET_BOOTSTRAP" in finding.fix
    assert [each.good for each in doctor.check_broker("nowhere, host:port")] == [False, False]
    assert list(doctor.check_broker("")) == []


def test_without_an_environment_the_fix_is_make_setup(tmp_path: Path) -> None:
    (finding,) = doctor.check_environment(tmp_path / "python")
    assert (finding.good, finding.fix) == (False, "run: make setup")


def test_versions_other_than_locked_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "STACKS", {})
    lock = tmp_path / "lock.txt"
    lock.write_text("pytest==0.0.1 \\\n    --hash=sha256:00\nNo_Such.Package==1.0\n")
    (finding,) = doctor.check_environment(Path(sys.executable), lock)
    assert not finding.good
    assert "pytest" in finding.seen
    assert "no-such-package missing, locked 1.0" in finding.seen


@pytest.mark.parametrize(
    ("code", "seen"),
    [("import no_such_engine", "no_such_engine"), ("import os; os.abort()", "died")],
)
def test_an_engine_that_breaks_is_reported(
    monkeypatch: pytest.MonkeyPatch, code: str, seen: str
) -> None:
    monkeypatch.setattr(doctor, "STACKS", {"engine": code})
    versions, engine = doctor.check_environment(Path(sys.executable))
    assert versions.name == "versions"
    assert not engine.good
    assert seen in engine.seen


def test_missing_jars_are_found(tmp_path: Path) -> None:
    (tmp_path / "kafka").mkdir()
    (tmp_path / "kafka" / "kafka_2.13-4.1.1.jar").touch()
    assert [each.good for each in doctor.check_jars(tmp_path)] == [True, False]


def test_it_needs_nothing_that_is_installed() -> None:
    command = [sys.executable, "-I", "-S", "-c"]
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import deploy.doctor"
    subprocess.run([*command, code], check=True)


def test_the_exit_status_tells_whether_something_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = doctor.Finding(name="java", good=True, seen="17")
    bad = doctor.Finding(name="mvn", good=False, seen="none", fix="install it")
    monkeypatch.setattr(doctor, "run_checks", lambda: [good])
    assert doctor.main() == 0
    monkeypatch.setattr(doctor, "run_checks", lambda: [good, bad])
    assert doctor.main() == 1
    assert "-> install it" in capsys.readouterr().out
