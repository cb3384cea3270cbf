"""The trainer's settings reach its configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingest.runtime.errors import ConfigError
from trainer.config import RunConfig, TrainerConfig
from trainer.model.config import ModelConfig
from trainer.recipes import RECIPES
from trainer.settings import TrainerSettings, parse_tasks


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_recipe_is_a_configuration_that_fits_into_a_manifest(recipe: str) -> None:
    config = TrainerSettings(recipe=recipe, tasks="like,click").trainer_config()
    assert ModelConfig.from_dict(config.to_dict()["model"]) == config.model
    assert config.positive_bits == parse_tasks("x=like+click")[0][1]


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHET_TRAINER_TABLE_ROWS", "77")
    monkeypatch.setenv("FRESHET_TRAINER_ADMIT_AFTER", "3")
    monkeypatch.setenv("FRESHET_TRAINER_IDLE_TTL_MS", "1000")
    monkeypatch.setenv("FRESHET_TRAINER_DETERMINISTIC", "true")
    monkeypatch.setenv("FRESHET_TRAINER_REMATERIALIZE", "true")
    monkeypatch.setenv("FRESHET_TRAINER_STOP_AT_CLOCK_MS", "123")
    settings = TrainerSettings()
    assert settings.trainer_config().table_rows == 77
    assert settings.trainer_config().admit_after == 3
    assert settings.trainer_config().idle_ttl_ms == 1000
    assert settings.trainer_config().rematerialize
    assert settings.run_config().wait_limit_seconds is None
    assert settings.run_config().stop_at_clock_ms == 123


@pytest.mark.parametrize(
    ("tasks", "named"),
    [
        ("like,clikc", "'clikc'"),
        ("context", "'context'"),
        ("", "tasks"),
        ("a=like,a=click", "tasks"),
    ],
)
def test_tasks_that_cannot_be_are_refused_by_name(tasks: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        TrainerSettings(tasks=tasks).trainer_config()


def test_an_unknown_recipe_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="tiny_cpu"):
        TrainerSettings(recipe="huge").trainer_config()


@pytest.mark.parametrize(
    ("field", "value"),
    [("token_budget", 0), ("threads", 0), ("table_rows", 1), ("device", "tpu"),
     ("dense_learning_rate", float("nan")), ("num_negatives", -1),
     ("admit_after", 0), ("idle_ttl_ms", -1)],
)  # fmt: skip
def test_a_value_that_cannot_work_names_its_field(field: str, value: object) -> None:
    model = ModelConfig(tasks=(("like", 8),))
    with pytest.raises(ConfigError, match=field):
        TrainerConfig(model=model, **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("export_keep", 3), ("export_every_seconds", 0.0), ("checkpoint_every_steps", 0)],
)
def test_a_cadence_that_cannot_work_names_its_field(field: str, value: object) -> None:
    paths = dict.fromkeys(("checkpoint_dir", "export_dir", "ne_log"), Path("x"))
    with pytest.raises(ConfigError, match=field):
        RunConfig(**paths, **{field: value})
