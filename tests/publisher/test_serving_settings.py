"""The server's settings reach its limits and its socket."""

from __future__ import annotations

import socket
from dataclasses import fields
from pathlib import Path

import pytest

from ingest.runtime.errors import ConfigError
from ingest.runtime.settings import read_settings
from publisher.serving.__main__ import listen
from publisher.serving.config import ServingConfig
from publisher.serving.settings import ServingSettings


def test_every_limit_can_be_set_and_defaults_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHET_SERVING_STORE", "/tmp/store")
    assert read_settings(ServingSettings).config() == ServingConfig(store=Path("/tmp/store"))
    for number, field in enumerate(f for f in fields(ServingConfig) if isinstance(f.default, int)):
        monkeypatch.setenv(f"FRESHET_SERVING_{field.name.upper()}", str(number + 1))
        assert getattr(read_settings(ServingSettings).config(), field.name) == number + 1


def test_a_limit_of_zero_names_its_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHET_SERVING_STORE", "/tmp/store")
    monkeypatch.setenv("FRESHET_SERVING_MAX_USERS", "0")
    with pytest.raises(ConfigError, match="max_users"):
        read_settings(ServingSettings).config()


def test_accepted_connections_do_not_hold_back_small_answers() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_taken_port_is_told_with_its_number() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConfigError, match=str(port)):
            listen("127.0.0.1", port)
