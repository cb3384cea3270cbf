"""Commands answer a mistake with one message and status 1."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from ingest.cli import app

NOBODY = "127.0.0.1:1"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["replay", "ml-10m"], "data sets: ml-100k, synthetic"),
        (["replay", "gone.csv"], "gone.csv is not a file"),
        (["replay", "synthetic", "--limit", "0"], "limit must be above 0"),
        (["replay", "synthetic:late=3"], "late must be a fraction"),
        (["send", "{"], "malformed_json"),
        (["send", '{"event_id":1,"user_id":-4}'], "$.user_id"),
    ],
)
def test_a_mistake_is_answered_before_the_broker_is_asked(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRESHET_BOOTSTRAP", NOBODY)
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 1
    assert said in outcome.output
    assert "Traceback" not in outcome.output
    assert NOBODY not in outcome.output


def test_a_speed_that_is_none_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = CliRunner().invoke(app, ["replay", "synthetic", "--speed", "fast"])
    assert outcome.exit_code == 2
    assert "neither max nor a number" in outcome.output
