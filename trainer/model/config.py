"""The shape of a model, as plain values that fit into a manifest."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from features.sequences import TOKEN_BITS
from ingest.runtime.errors import ConfigError

_MAX_ACTION_BITS = 32


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that decides which parameters a model has and what it computes.

    `tasks` pairs a task's name with the mask of action bits that make its label 1.
    `max_history` is for whoever builds batches (`TokenBatch.from_columns`); the model itself takes
    any length. `attention_divisor` is fixed so that no result depends on who else is in a batch.

    Raises:
        ConfigError: a value that cannot work; the message names the field.

    Example:
        >>> config = ModelConfig(tasks=(("like", 8),))
        >>> ModelConfig.from_dict(config.to_dict()) == config
        True
    """

    tasks: tuple[tuple[str, int], ...]
    backbone: str = "hstu"
    embedding_dim: int = 32
    num_layers: int = 2
    num_heads: int = 2
    qk_dim: int = 16
    value_dim: int = 16
    hidden_dim: int = 64
    max_history: int = 128
    max_positions: int = 128
    num_time_buckets: int = 64
    attention_divisor: float = 128.0
    action_bits: int = max(TOKEN_BITS.values()).bit_length()
    num_watch_buckets: int = 16
    num_price_buckets: int = 32
    retrieval_temperature: float = 0.05

    def __post_init__(self) -> None:
        for name in _POSITIVE_INTS:
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise _refused(name, value, "a whole number of at least 1")
        for name in ("attention_divisor", "retrieval_temperature"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                raise _refused(name, value, "a finite number above 0")
        if self.action_bits > _MAX_ACTION_BITS:
            raise _refused("action_bits", self.action_bits, f"at most {_MAX_ACTION_BITS}")
        self._check_tasks()

    def _check_tasks(self) -> None:
        names = [name for name, _ in self.tasks]
        if not names or len(set(names)) != len(names) or not all(names):
            raise _refused("tasks", self.tasks, "at least one task, each with a name of its own")
        for name, mask in self.tasks:
            if not 0 < mask < 1 << self.action_bits:
                raise _refused("tasks", (name, mask), f"a mask of 1 to {self.action_bits} bits")

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks' names in the order of the logits."""
        return tuple(name for name, _ in self.tasks)

    @property
    def task_masks(self) -> tuple[int, ...]:
        """The tasks' action masks in the order of the logits."""
        return tuple(mask for _, mask in self.tasks)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"tasks": [list(task) for task in self.tasks]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Read what `to_dict` wrote.

        Raises:
            ConfigError: an unknown or missing field, or a value that cannot work.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(values.keys() - known):
            raise ConfigError("unknown model field", detail=f"{unknown}; known: {sorted(known)}.")
        if "tasks" not in values:
            raise ConfigError("model field missing", detail="tasks has no default.")
        try:
            tasks = tuple((str(name), int(mask)) for name, mask in values["tasks"])
        except (TypeError, ValueError) as error:
            raise _refused("tasks", values["tasks"], "pairs of name and action mask") from error
        return cls(**(values | {"tasks": tasks}))


_POSITIVE_INTS = (
    "embedding_dim", "num_layers", "num_heads", "qk_dim", "value_dim", "hidden_dim", "max_history",
    "max_positions", "num_time_buckets", "action_bits", "num_watch_buckets", "num_price_buckets",
)  # fmt: skip


def _refused(field: str, value: object, wanted: str) -> ConfigError:
    return ConfigError(f"model field {field} refused", detail=f"It is {value!r}, not {wanted}.")
