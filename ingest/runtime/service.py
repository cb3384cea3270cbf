"""The shell of a long-lived process: stop signal, metrics endpoint, exit code."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

import structlog
from prometheus_client import disable_created_metrics, start_http_server

from ingest.runtime.errors import ConfigError, FreshetError

disable_created_metrics()


class StopSignal:
    """Set once by SIGTERM or SIGINT; a service looks at it between two units of work."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def install(self) -> StopSignal:
        """Catch SIGTERM and SIGINT from here on."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        return self

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._event.set()

    def request(self) -> None:
        """Ask the service to stop, as a signal would."""
        self._event.set()

    def requested(self) -> bool:
        """Whether somebody asked."""
        return self._event.is_set()

    def wait(self, timeout_seconds: float) -> bool:
        """Sleep until asked to stop or the time is over; true when asked."""
        return self._event.wait(timeout_seconds)


def serve_metrics(port: int, host: str = "127.0.0.1") -> int:
    """Serve this process's metrics at /metrics and return the port (0 picks a free one).

    Raises:
        ConfigError: the port is taken.
    """
    try:
        server, _ = start_http_server(port, addr=host)
    except OSError as error:
        raise ConfigError(
            "metrics port not free",
            detail=f"{host}:{port}: {error.strerror}.",
            hint="set another metrics_port, or 0 to pick a free one",
        ) from error
    return int(server.server_address[1])


def run(main: Callable[[], None]) -> None:
    """Run a service's main; what a person can act on ends it with one message and exit 1.

    That is every FreshetError, and what the operating system refuses: a full disk, a missing right.
    """
    try:
        main()
    except FreshetError as error:
        structlog.get_logger().error(
            error.primary, detail=error.detail, hint=error.hint, retriable=error.retriable
        )
        sys.exit(1)
    except OSError as error:
        structlog.get_logger().error("the operating system refused", detail=str(error))
        sys.exit(1)
