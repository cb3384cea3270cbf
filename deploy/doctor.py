"""Checks of a machine and an installation, each with what to do when it fails.

Only the standard library is imported, so that it still speaks where the installation is broken.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV_PYTHON = ROOT / ".venv" / "bin" / "python"
LOCK = ROOT / "deploy" / "locks" / "all.txt"
JARS = {"kafka": "kafka_*.jar", "flink": "flink-sql-connector-kafka-*.jar"}

_GIB = 1 << 30
# A broker, Flink, trainer, publisher and server together were seen at 4 GiB.
_MIN_MEMORY_BYTES = 6 * _GIB
# The environment and the jars take 7 GiB, a demo up to 1 GiB more.
_MIN_DISK_BYTES = 10 * _GIB
_MIN_DISK_INSTALLED_BYTES = 2 * _GIB
# A container's limit, which the machine's own size does not show.
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_PROBE_TIMEOUT_SECONDS = 120
_MIN_JAVA = 17

# Each runs in a process of its own: a broken native library may take its process down.
STACKS = {
    "torch": "import torch; assert torch.ones(2).sum().item() == 2",
    "fbgemm_gpu": (
        "import torch, fbgemm_gpu; "
        "sums = torch.ops.fbgemm.asynchronous_complete_cumsum(torch.tensor([1, 2])); "
        "assert sums.tolist() == [0, 1, 3]"
    ),
    "torchrec": "import torchrec; torchrec.EmbeddingBagConfig",
    "pyflink": "import pyflink.datastream",
    "pemja": "import pemja",
    "kafka": "import kafka; kafka.KafkaProducer",
    "kernels": "from kernels.library import load; load()",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The outcome of one check: what was seen and, where it is not good, what to do."""

    name: str
    good: bool
    seen: str
    fix: str = ""


def run_checks(environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """Every check, in the order a person would mend things."""
    return [
        check_platform(),
        check_java(),
        check_command("mvn", "apt-get install maven"),
        check_compiler(),
        check_memory(),
        check_disk(ROOT),
        *check_environment(),
        *check_jars(),
        *check_ports(configured_ports(environ)),
        *check_broker(environ.get("FRESHET_BOOTSTRAP", "")),
    ]


def check_platform() -> Finding:
    """Linux x86_64 and Python 3.11, for which the locks are."""
    seen = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    good = sys.version_info[:2] == (3, 11) and (
        (platform.system(), platform.machine()) == ("Linux", "x86_64")
    )
    return Finding(
        name="platform",
        good=good,
        seen=seen,
        fix="use Python 3.11 on Linux x86_64 (elsewhere: a container), then: make setup",
    )


def check_java() -> Finding:
    """A java command on PATH, of a version Kafka and Flink run on."""
    fix = "install Java 17 (Debian: apt-get install openjdk-17-jre-headless)"
    java = shutil.which("java")
    if java is None:
        return Finding(name="java", good=False, seen="no java command on PATH", fix=fix)
    done = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    lines = (done.stderr or done.stdout).splitlines() or ["it prints no version"]
    version = re.search(r'version "(\d+)', lines[0])
    good = version is not None and int(version[1]) >= _MIN_JAVA
    return Finding(name="java", good=good, seen=f"{java}: {lines[0]}", fix=fix)


def check_command(name: str, fix: str) -> Finding:
    """A command on PATH."""
    path = shutil.which(name)
    return Finding(
        name=name, good=path is not None, seen=path or f"no {name} command on PATH", fix=fix
    )


def check_compiler() -> Finding:
    """A C and C++ compiler: the CPU kernels are built with it, and Triton's launchers."""
    found = shutil.which("g++")
    return Finding(
        name="compiler",
        good=found is not None,
        seen=found or "no g++ on PATH",
        fix="apt-get install g++",
    )


def check_memory() -> Finding:
    """Memory for all processes of the demo."""
    total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if _CGROUP_LIMIT.exists() and (limit := _CGROUP_LIMIT.read_text().strip()).isdecimal():
        total_bytes = min(total_bytes, int(limit))
    return Finding(
        name="memory",
        good=total_bytes >= _MIN_MEMORY_BYTES,
        seen=f"{total_bytes / _GIB:.1f} GiB",
        fix=f"give the machine or container at least {_MIN_MEMORY_BYTES // _GIB} GiB",
    )


def check_disk(directory: Path) -> Finding:
    """Disk space for the environment, or for a demo where the environment is there."""
    needed = _MIN_DISK_INSTALLED_BYTES if VENV_PYTHON.exists() else _MIN_DISK_BYTES
    free_bytes = shutil.disk_usage(directory).free
    return Finding(
        name="disk",
        good=free_bytes >= needed,
        seen=f"{free_bytes / _GIB:.1f} GiB free at {directory}",
        fix=f"free at least {needed // _GIB} GiB there (make clean deletes old demos)",
    )


def check_environment(python: Path = VENV_PYTHON, lock: Path = LOCK) -> list[Finding]:
    """The environment exists, has the lock's versions, and each engine in it works."""
    if not python.exists():
        return [Finding(name="environment", good=False, seen=f"no {python}", fix="run: make setup")]
    return [_check_versions(python, lock), *(_check_stack(python, name) for name in STACKS)]


def _check_versions(python: Path, lock: Path) -> Finding:
    probe = (
        "import importlib.metadata as m, json; "
        "print(json.dumps([[d.metadata['Name'], d.version] for d in m.distributions()]))"
    )
    done = _run_probe(python, probe)
    if done.returncode:
        seen = _last_line(done.stderr)
        return Finding(name="versions", good=False, seen=seen, fix="run: make clean-all setup")
    installed = {_canonical(name): version for name, version in json.loads(done.stdout)}
    wrong = [
        f"{name} {installed.get(name, 'missing')}, locked {version}"
        for name, version in locked_versions(lock).items()
        if installed.get(name) != version
    ]
    return Finding(
        name="versions",
        good=not wrong,
        seen="; ".join(wrong[:5]) or "as locked",
        fix="run: rm .venv/.synced && make setup",
    )


def locked_versions(lock: Path) -> dict[str, str]:
    """Package -> version of a lock file."""
    pinned = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", lock.read_text(), re.MULTILINE)
    return {_canonical(name): version for name, version in pinned}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _check_stack(python: Path, name: str) -> Finding:
    done = _run_probe(python, STACKS[name])
    return Finding(
        name=name,
        good=done.returncode == 0,
        seen="works" if done.returncode == 0 else _last_line(done.stderr),
        fix="run: make clean-all setup",
    )


def _run_probe(python: Path, code: str) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-c", code]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_PROBE_TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        message = f"no answer within {_PROBE_TIMEOUT_SECONDS} s"
        return subprocess.CompletedProcess(command, 1, stdout="", stderr=message)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["the process died without a word"])[-1]


def check_jars(directory: Path = ROOT / "build" / "jars") -> Iterator[Finding]:
    """Kafka's and the Flink connector's jars are where the runner looks."""
    for profile, pattern in JARS.items():
        found = sorted((directory / profile).glob(pattern))
        yield Finding(
            name=f"{profile} jars",
            good=bool(found),
            seen=found[0].name if found else f"no {pattern} in {directory / profile}",
            fix="run: make setup",
        )


def configured_ports(environ: Mapping[str, str]) -> dict[str, str]:
    """The ports that `FRESHET_*_PORT` settings name, and 0, which stands for any free one."""
    named = {
        name: value
        for name, value in sorted(environ.items())
        if name.startswith("FRESHET_") and name.endswith("PORT")
    }
    return {"loopback": "0", **named}


def check_ports(ports: Mapping[str, str], host: str = "127.0.0.1") -> Iterator[Finding]:
    """Each port can be listened on."""
    for name, port in ports.items():
        fix = f"stop what listens there (ss -ltnp 'sport = :{port}'), or choose another port"
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, int(port)))
            except (OSError, OverflowError, ValueError) as error:
                yield Finding(name=name, good=False, seen=f"{host}:{port}: {error}", fix=fix)
            else:
                yield Finding(name=name, good=True, seen=f"{host}:{port} is free")


def check_broker(bootstrap: str) -> Iterator[Finding]:
    """Every address of `bootstrap` takes a connection; nothing to check where none is set."""
    for address in filter(None, (each.strip() for each in bootstrap.split(","))):
        host, _, port = address.rpartition(":")
        try:
            if not host or not port.isdecimal():
                raise OSError("not host:port")
            socket.create_connection((host, int(port)), timeout=5).close()
        except (OSError, OverflowError) as error:
            seen = f"{address}: {error}"
            fix = "start the broker, or set FRESHET_BOOTSTRAP to where it listens"
            yield Finding(name="broker", good=False, seen=seen, fix=fix)
        else:
            yield Finding(name="broker", good=True, seen=f"{address} answers")


def main() -> int:
    """Print the findings; the exit status, 1 when something is to be mended."""
    findings = run_checks()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark = "ok     " if finding.good else "MISSING"
        print(f"{mark} {finding.name:<{width}}  {finding.seen}")
        if not finding.good:
            print(f"{'':8}{'':<{width}}  -> {finding.fix}")
    num_bad = sum(not finding.good for finding in findings)
    print(
        f"{num_bad} of {len(findings)} checks found something to mend." if num_bad else "All good."
    )
    return 1 if num_bad else 0


if __name__ == "__main__":
    sys.exit(main())
