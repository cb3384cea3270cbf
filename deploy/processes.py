"""Child processes that are surely ended: one log file each, whole process groups, by pid."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ingest.runtime.errors import FreshetError

_POLL_SECONDS = 0.1


class ProcessDied(FreshetError):
    """A child process ended that should have gone on."""


class Child:
    """A process in a session of its own, so that its whole tree can be signalled at once."""

    def __init__(
        self, name: str, process: subprocess.Popen[bytes], log: Path, log_start_bytes: int
    ) -> None:
        self.name = name
        self.log = log
        self._process = process
        self._log_start_bytes = log_start_bytes

    @classmethod
    def start(
        cls,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Child:
        """Start `command` with its output appended to `log`; `env` adds to this environment."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            log_start_bytes = output.tell()
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
            )
        return cls(name, process, log, log_start_bytes)

    @property
    def pid(self) -> int:
        """The process id, which is also its group's."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def check_alive(self) -> None:
        """Raise ProcessDied, with the end of the log, when the process is gone."""
        code = self.returncode
        if code is not None:
            raise ProcessDied(
                f"{self.name} ended with status {code}",
                detail=f"The end of its log:\n{self.log_tail()}",
                hint=f"read {self.log}",
            )

    def log_text(self) -> str:
        """What this process wrote, without what an earlier one of the name left in the file."""
        with self.log.open("rb") as file:
            file.seek(self._log_start_bytes)
            return file.read().decode(errors="replace")

    def log_tail(self, num_lines: int = 15) -> str:
        """The last lines it wrote."""
        lines = self.log_text().splitlines()
        return "\n".join(f"    {line}" for line in lines[-num_lines:])

    def wait(self, timeout_seconds: float) -> int:
        """Wait for its end and return the exit status.

        Raises:
            FreshetError: it still runs after the time.
        """
        try:
            return self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired as error:
            raise FreshetError(
                f"{self.name} did not end", detail=f"Waited {timeout_seconds:g} s."
            ) from error

    def terminate(self) -> None:
        """SIGTERM to the process, without waiting."""
        if self.returncode is None:
            self._process.terminate()

    def stop(self, grace_seconds: float = 60) -> None:
        """SIGTERM to the process; after the grace, and for what it left behind, SIGKILL."""
        if self.returncode is None:
            self._process.terminate()
            try:
                self._process.wait(grace_seconds)
            except subprocess.TimeoutExpired:
                pass  # the group is killed below
        self.kill()

    def kill(self) -> None:
        """SIGKILL to its whole group, at once."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # nobody of the group is left
        self._process.wait()


def await_condition(condition: Callable[[], bool], child: Child, *, timeout_seconds: float) -> None:
    """Wait until `condition` holds while `child` lives.

    Raises:
        ProcessDied: the child ended first.
        FreshetError: the time is over.
    """
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        child.check_alive()
        if time.monotonic() > deadline:
            raise FreshetError(
                f"{child.name} was not ready in {timeout_seconds:g} s",
                detail=f"The end of its log:\n{child.log_tail()}",
                hint=f"read {child.log}",
            )
        time.sleep(_POLL_SECONDS)


def log_contains(child: Child, text: str) -> Callable[[], bool]:
    """A condition: the child's log has `text`."""
    return lambda: text in child.log_text()
