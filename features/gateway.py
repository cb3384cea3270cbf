"""The JVM that runs Flink: started by us, so that it can be watched and surely ended."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import site
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO

import pyflink
from pyflink.java_gateway import get_gateway
from pyflink.pyflink_gateway_server import launch_gateway_server_process

from ingest.runtime.errors import FreshetError
from ingest.runtime.java import find_java

_START_TIMEOUT_SECONDS = 60
_PID_FILE = "jvm.pid"
_ROOT = Path(__file__).resolve().parent.parent


class Gateway:
    """A running JVM with Flink's Python gateway in it; PyFlink in this process talks to it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """The JVM's process id."""
        return self._process.pid

    def check_alive(self) -> None:
        """Raise FreshetError when the JVM is gone."""
        code = self._process.poll()
        if code is not None:
            raise FreshetError(
                "Flink's JVM ended",
                detail=f"Its exit status is {code}.",
                hint="read its log; start again to resume from the last checkpoint",
                retriable=True,
            )

    def stop(self, grace_seconds: float = 10) -> None:
        """End the JVM and wait for it; after the grace by SIGKILL."""
        # From here on a refused connection is what we asked for.
        logging.getLogger("py4j").setLevel(logging.CRITICAL)
        get_gateway().shutdown()
        self._process.terminate()
        try:
            self._process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def start_gateway(heap_mb: int, state_directory: Path) -> Gateway:
    """Start the JVM and connect PyFlink to it.

    Args:
        heap_mb: maximum heap.
        state_directory: gets Flink's log files (`log/`) and the JVM's process id, for `end_orphan`.

    Raises:
        ConfigError: no Java.
        FreshetError: the JVM did not come up.
    """
    find_java()  # the launcher looks in the same places, but says less
    log_directory = _log_directory(state_directory)
    log_directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        port_file = Path(directory) / "port"
        # Its stdin is a pipe from us: when we are killed the JVM reads its end and exits too.
        process = launch_gateway_server_process(
            {**os.environ, **_environment(heap_mb, log_directory, port_file)},
            ["-c", "org.apache.flink.client.python.PythonGatewayServer", "local"],
        )
        _note_pid(state_directory / _PID_FILE, process.pid)
        threading.Thread(target=_pass_on, args=(process.stderr,), daemon=True).start()
        gateway = Gateway(process)
        port = _await_port(port_file, gateway)
    os.environ["PYFLINK_GATEWAY_PORT"] = str(port)
    get_gateway()
    return gateway


def end_orphan(state_directory: Path) -> None:
    """End the JVM a killed predecessor left behind, before its checkpoints are looked at.

    It exits by itself within seconds, but until then could commit past what we resume from. The
    caller holds the state directory's lock, so nobody else can be using it.
    """
    pid_file = state_directory / _PID_FILE
    # Empty after the machine itself went down, and no process of ours outlived that.
    if not pid_file.exists() or not pid_file.read_text():
        return
    pid = int(pid_file.read_text())
    # The number may long be another process's: only one that logs where ours did is ours.
    while str(_log_directory(state_directory)) in _command_line(pid):
        # Killed again and again until it is gone: it may have died, or be dying, in between.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    pid_file.unlink()


def _note_pid(path: Path, pid: int) -> None:
    # Killed between two steps, we leave the whole number or none.
    new = path.with_suffix(".new")
    new.write_text(str(pid))
    new.replace(path)


def _log_directory(state_directory: Path) -> Path:
    return state_directory.resolve() / "log"


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def _environment(heap_mb: int, log_directory: Path, port_file: Path) -> dict[str, str]:
    # Python runs inside the JVM, started by it: only this variable tells it of our packages.
    paths = [str(_ROOT), *site.getsitepackages(), os.environ.get("PYTHONPATH", "")]
    # Flink loads reporters as plugins only in a cluster; in this JVM they must be on the class path,
    # and Hadoop's variable is the one door to it.
    plugins = Path(pyflink.__file__).parent / "plugins" / "metrics-prometheus"
    classes = [*map(str, plugins.glob("*.jar")), os.environ.get("HADOOP_CLASSPATH", "")]
    return {
        "HADOOP_CLASSPATH": os.pathsep.join(path for path in classes if path),
        "LOG4J_PROPERTIES": str(Path(__file__).with_name("log4j2.properties")),
        "JVM_ARGS": f"{os.environ.get('JVM_ARGS', '')} -Xmx{heap_mb}m -XX:+ExitOnOutOfMemoryError",
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "FLINK_LOG_DIR": str(log_directory),
        "_PYFLINK_CONN_INFO_PATH": str(port_file),
    }


def _await_port(port_file: Path, gateway: Gateway) -> int:
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        gateway.check_alive()
        if port_file.exists() and port_file.stat().st_size >= 4:
            return int(struct.unpack_from("!I", port_file.read_bytes())[0])
        time.sleep(0.05)
    gateway.stop()
    raise FreshetError(
        "Flink's JVM did not come up", detail=f"Waited {_START_TIMEOUT_SECONDS} s.", retriable=True
    )


def _pass_on(stream: IO[bytes]) -> None:
    # An undrained pipe would stop the JVM once full.
    for line in stream:
        sys.stderr.write(line.decode(errors="replace"))
