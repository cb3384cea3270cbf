"""The model's configuration and the registry it chooses from."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ingest.runtime.errors import ConfigError
from trainer.model import hstu
from trainer.model.config import ModelConfig
from trainer.model.registry import find, register


def test_a_configuration_survives_json() -> None:
    config = ModelConfig(tasks=(("like", 8), ("long_watch", 1 << 24)), embedding_dim=48)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_task_may_be_of_some_targets_only_and_one_of_all_is_written_as_a_pair() -> None:
    config = ModelConfig(tasks=(("like", 8), ("click", 2, 1)))
    assert config.task_amongs == (0, 1)
    assert config.to_dict()["tasks"] == [["like", 8], ["click", 2, 1]]
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"embedding_dim": 0}, "embedding_dim"),
        ({"num_layers": 1.0}, "num_layers"),
        ({"num_heads": True}, "num_heads"),
        ({"attention_divisor": 0.0}, "attention_divisor"),
        ({"attention_divisor": float("nan")}, "attention_divisor"),
        ({"retrieval_temperature": -1.0}, "retrieval_temperature"),
        ({"action_bits": 33}, "action_bits"),
        ({"tasks": ()}, "tasks"),
        ({"tasks": (("like", 8), ("like", 2))}, "tasks"),
        ({"tasks": (("like", 0),)}, "tasks"),
        ({"tasks": (("like", 1 << 28),)}, "tasks"),
        ({"tasks": (("like", 8, 1 << 28),)}, "tasks"),
        ({"tasks": (("like", 8, -1),)}, "tasks"),
        ({"counted_rates": 1}, "counted_rates"),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_its_fields_name(
    change: dict[str, Any], field: str
) -> None:
    with pytest.raises(ConfigError, match=f"model field {field} refused"):
        ModelConfig(**({"tasks": (("like", 8),)} | change))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"tasks": 3},
        {"tasks": [["like"]]},
        {"tasks": [["like", 8, 1, 1]]},
        {"tasks": [["like", 8]], "num_layer": 2},
    ],
)
def test_a_manifest_that_is_no_configuration_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"tasks|num_layer"):
        ModelConfig.from_dict(values)


def test_the_registry_finds_parts_by_name_and_names_what_it_has() -> None:
    assert find("backbone", "hstu") is hstu.HSTU
    with pytest.raises(ConfigError, match="hstu"):
        find("backbone", "nosuch")


def test_a_taken_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="already"):
        register("backbone", "hstu")(int)
    assert find("backbone", "hstu") is hstu.HSTU
