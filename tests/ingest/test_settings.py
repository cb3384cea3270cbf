"""What every service reads from its environment."""

from __future__ import annotations

import pytest

from ingest.runtime.errors import ConfigError
from ingest.runtime.settings import KafkaSettings, read_settings


def test_a_log_level_is_known_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHET_LOG_LEVEL", "warning")
    assert read_settings(KafkaSettings).log_level == "WARNING"


def test_another_log_level_is_an_error_that_names_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FRESHET_LOG_LEVEL", "foo")
    with pytest.raises(ConfigError, match=r"FRESHET_LOG_LEVEL.*DEBUG"):
        read_settings(KafkaSettings)
