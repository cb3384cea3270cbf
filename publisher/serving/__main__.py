"""`python -m publisher.serving`: answer over HTTP with the newest version."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
import uvicorn

from ingest.runtime.errors import ConfigError
from ingest.runtime.logs import set_up_logging
from ingest.runtime.service import StopSignal, run
from ingest.runtime.settings import read_settings
from publisher.serving.app import Serving, create_app
from publisher.serving.follow import UserFollower, VersionFollower, follow
from publisher.serving.live import Live
from publisher.serving.settings import ServingSettings
from publisher.serving.users import UserStates
from publisher.snapshots import SnapshotStore
from publisher.snapshots.disk import write_durably


def main() -> None:
    """Run until SIGTERM or SIGINT, or until following a topic fails for good."""
    settings = read_settings(ServingSettings)
    log = set_up_logging("serving", settings.log_level)
    # uvicorn handles signals while it runs and passes them on when it ends.
    stop = StopSignal().install()
    config = settings.config()
    torch.set_num_threads(config.torch_threads)
    listener = listen(settings.host, settings.port)
    live = Live(SnapshotStore(config.store, config.model_name), config)
    users = UserStates(max_users=config.max_users, max_history=config.max_history)
    user_follower = UserFollower(settings.bootstrap, users)
    followers = (user_follower, VersionFollower(settings.bootstrap, live, config.model_name))
    with ThreadPoolExecutor(config.num_workers, "score") as workers:
        serving = Serving(
            live=live,
            users=users,
            config=config,
            workers=workers,
            caught_up=lambda: user_follower.caught_up,
        )
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(serving), log_level="warning", access_log=False, lifespan="off"
            )
        )
        _tell_address(listener, settings.address_file)
        log.info("serving started", address=_address(listener), store=str(config.store))
        _serve_while_following(server, listener, followers, stop)
    log.info("serving stopped")


def _serve_while_following(
    server: uvicorn.Server,
    listener: socket.socket,
    followers: Iterable[UserFollower | VersionFollower],
    stop: StopSignal,
) -> None:
    """The server ends with its followers and they with it; what ended a follower is raised."""

    def end(_: Future[None]) -> None:
        server.should_exit = True

    with ThreadPoolExecutor(2, "follow") as threads:
        running = [threads.submit(follow, follower, stop) for follower in followers]
        for future in running:
            future.add_done_callback(end)
        try:
            server.run(sockets=[listener])
        finally:
            stop.request()
        for future in running:
            future.result()


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{host}:{port}"


def _tell_address(listener: socket.socket, path: Path | None) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, _address(listener).encode())


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; connections it accepts send small answers at once.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    try:
        listener = socket.create_server((host, port), backlog=128)
    except OSError as error:
        raise ConfigError(
            "cannot listen",
            detail=f"{host}:{port}: {error.strerror}.",
            hint="set another FRESHET_SERVING_PORT, or 0 to pick a free one",
        ) from error
    # asyncio does this only for sockets made with an explicit protocol number; without it every
    # answer waits some 40 ms for the client's delayed acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


if __name__ == "__main__":
    run(main)
