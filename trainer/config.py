"""What decides the weights (TrainerConfig) and what decides where and when they are written (RunConfig)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ingest.runtime.errors import ConfigError
from trainer.model.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Everything that, with the log, decides the weights.

    `threads` and `attention_backend` are part of it because sums taken otherwise round otherwise;
    a checkpoint may be resumed with others. `rematerialize` changes no bit: see `trainer.model.hstu.HSTU`.
    `auc_window_targets` are kept one by one, `window_targets` only as sums.
    An id gets a row once seen in `admit_after` tokens and loses it when not seen for `idle_ttl_ms` of
    event time (0: never) or, in a full table, as one of the coldest; see `trainer.row_allocator`.
    A rank's buffered tokens are bounded by `max_buffered_tokens` plus one poll.

    Raises:
        ConfigError: a value that cannot work; the message names the field.
    """

    model: ModelConfig
    table_rows: int = 1 << 17
    admit_after: int = 1
    idle_ttl_ms: int = 0
    table_init_std: float = 0.02
    table_learning_rate: float = 0.05
    dense_learning_rate: float = 1e-3
    token_budget: int = 4096
    max_buffered_tokens: int = 1 << 20
    num_negatives: int = 128
    retrieval_weight: float = 0.1
    window_targets: int = 100_000
    auc_window_targets: int = 20_000
    rate_half_life_seconds: float = 10_800.0
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    attention_backend: str = "auto"
    rematerialize: bool = False

    def __post_init__(self) -> None:
        for name in (
            "token_budget", "max_buffered_tokens", "window_targets", "auc_window_targets", "threads",
            "admit_after",
        ):  # fmt: skip
            _require(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("num_negatives", "seed", "retrieval_weight", "idle_ttl_ms"):
            _require(self, name, getattr(self, name) >= 0, "at least 0")
        for name in (
            "table_learning_rate", "dense_learning_rate", "table_init_std", "rate_half_life_seconds"
        ):  # fmt: skip
            value = getattr(self, name)
            _require(self, name, math.isfinite(value) and value > 0, "finite and above 0")
        _require(self, "table_rows", self.table_rows >= 2, "at least 2, row 0 being the fallback")
        _require(self, "device", self.device in ("cpu", "cuda"), "cpu or cuda")

    @property
    def positive_bits(self) -> int:
        """The action bits that make a target a retrieval positive: every task's."""
        bits = 0
        for mask in self.model.task_masks:
            bits |= mask
        return bits

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the model's are ModelConfig.to_dict()."""
        return asdict(self) | {"model": self.model.to_dict()}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where a run writes, how often, and when it ends.

    Deterministic: only full batches, in the log's own order, whatever it waits. Otherwise a message
    that waited `max_wait_seconds` is trained in the order available. `stop_at_clock_ms` ends the run
    when every partition's clock is there; None goes on until stopped.

    Raises:
        ConfigError: a value that cannot work; the message names the field.
    """

    checkpoint_dir: Path
    export_dir: Path
    ne_log: Path
    checkpoint_every_steps: int = 200
    checkpoint_keep: int = 3
    export_every_seconds: float = 3.0
    export_keep: int = 4
    deterministic: bool = False
    max_wait_seconds: float = 0.5
    stop_at_clock_ms: int | None = None
    code_revision: str = "unknown"

    def __post_init__(self) -> None:
        for name in ("checkpoint_every_steps", "checkpoint_keep"):
            _require(self, name, getattr(self, name) >= 1, "at least 1")
        _require(self, "export_keep", self.export_keep >= 4, "at least 4: readers may be behind")
        for name in ("export_every_seconds", "max_wait_seconds"):
            value = getattr(self, name)
            _require(self, name, math.isfinite(value) and value > 0, "finite and above 0")

    @property
    def wait_limit_seconds(self) -> float | None:
        """How long a message may wait for the log's order; None for ever."""
        return None if self.deterministic else self.max_wait_seconds


def _require(config: object, field: str, holds: bool, wanted: str) -> None:
    if not holds:
        raise ConfigError(
            f"{type(config).__name__} field {field} refused",
            detail=f"It is {getattr(config, field)!r}; wanted {wanted}.",
        )
