"""The shape of a model, as plain values that fit into a manifest."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from features.sequences import TOKEN_BITS
from ingest.runtime.errors import ConfigError

_MAX_ACTION_BITS = 32
_COUNTED_PER_TASK = 4


class Task(NamedTuple):
    """Label 1 where any bit of `mask` is set; only targets with a bit of `among` count, 0: all."""

    name: str
    mask: int
    among: int = 0


Tasks = tuple[tuple[str, int] | tuple[str, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that decides which parameters a model has and what it computes.

    `tasks` are `Task`s; (name, mask) and (name, mask, among) are taken for one.
    `counted_rates`: the ranking head also reads what was counted of the item, `num_counted` figures
    behind the learned part of its row (`trainer.rates`).
    `max_history` is for whoever builds batches (`TokenBatch.from_columns`); the model itself takes
    any length. `attention_divisor` is fixed so that no result depends on who else is in a batch.

    Raises:
        ConfigError: a value that cannot work; the message names the field.

    Example:
        >>> config = ModelConfig(tasks=(("like", 8), ("click", 2, 1)))
        >>> ModelConfig.from_dict(config.to_dict()) == config
        True
    """

    tasks: Tasks
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
    counted_rates: bool = False

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
        if type(self.counted_rates) is not bool:
            raise _refused("counted_rates", self.counted_rates, "true or false")
        object.__setattr__(self, "tasks", tuple(Task(*task) for task in self.tasks))
        self._check_tasks()

    def _check_tasks(self) -> None:
        names = self.task_names
        if not names or len(set(names)) != len(names) or not all(names):
            raise _refused("tasks", self.tasks, "at least one task, each with a name of its own")
        limit = 1 << self.action_bits
        for task, mask, among in zip(self.tasks, self.task_masks, self.task_amongs, strict=True):
            if not (0 < mask < limit and 0 <= among < limit):
                raise _refused("tasks", tuple(task), f"masks of at most {self.action_bits} bits")

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks' names in the order of the logits."""
        return tuple(task[0] for task in self.tasks)

    @property
    def task_masks(self) -> tuple[int, ...]:
        """The tasks' action masks in the order of the logits."""
        return tuple(task[1] for task in self.tasks)

    @property
    def task_amongs(self) -> tuple[int, ...]:
        """The bits of which a target needs one to count for a task, 0 for all targets."""
        return tuple(Task(*task).among for task in self.tasks)

    @property
    def num_counted(self) -> int:
        """Counted figures behind the learned part of an item's row."""
        return _COUNTED_PER_TASK * len(self.tasks) if self.counted_rates else 0

    @property
    def item_width(self) -> int:
        """Width of an item's row as the model reads it: learned, then counted."""
        return self.embedding_dim + self.num_counted

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a task of all targets as a pair."""
        parts = zip(self.task_names, self.task_masks, self.task_amongs, strict=True)
        tasks = [[name, mask, *([among] if among else [])] for name, mask, among in parts]
        return asdict(self) | {"tasks": tasks}

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
            tasks = tuple(
                Task(str(name), int(mask), *map(int, among))
                for name, mask, *among in values["tasks"]
            )
        except (TypeError, ValueError) as error:
            wanted = "tasks of name, action mask and perhaps mask of eligible targets"
            raise _refused("tasks", values["tasks"], wanted) from error
        return cls(**(values | {"tasks": tasks}))


_POSITIVE_INTS = (
    "embedding_dim", "num_layers", "num_heads", "qk_dim", "value_dim", "hidden_dim", "max_history",
    "max_positions", "num_time_buckets", "action_bits", "num_watch_buckets", "num_price_buckets",
)  # fmt: skip


def _refused(field: str, value: object, wanted: str) -> ConfigError:
    return ConfigError(f"model field {field} refused", detail=f"It is {value!r}, not {wanted}.")
