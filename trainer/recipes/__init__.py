"""Recipes: named configurations; each takes the tasks and gives a TrainerConfig."""

from __future__ import annotations

from collections.abc import Callable

from ingest.runtime.errors import ConfigError
from trainer.config import TrainerConfig
from trainer.model.config import Tasks
from trainer.recipes.eight_gpu import eight_gpu
from trainer.recipes.one_gpu import one_gpu
from trainer.recipes.tiny_cpu import tiny_cpu

RECIPES: dict[str, Callable[[Tasks], TrainerConfig]] = {
    recipe.__name__: recipe for recipe in (tiny_cpu, one_gpu, eight_gpu)
}


def find_recipe(name: str) -> Callable[[Tasks], TrainerConfig]:
    """The recipe of a name.

    Raises:
        ConfigError: there is none; the message lists those there are.
    """
    if name not in RECIPES:
        raise ConfigError("no such recipe", detail=f"{name!r}; there are {sorted(RECIPES)}.")
    return RECIPES[name]
