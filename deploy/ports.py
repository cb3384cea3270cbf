"""Free ports on loopback."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from ingest.runtime.errors import ConfigError


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """`count` different ports nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((host, 0))
        return [each.getsockname()[1] for each in sockets]


def require_free(port: int, host: str = "127.0.0.1") -> None:
    """Check that a port can be listened on.

    Raises:
        ConfigError: somebody has it.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                "port in use",
                detail=f"{host}:{port}: {error.strerror}.",
                hint=f"stop what listens there (ss -ltnp 'sport = :{port}'), or choose another",
            ) from error
