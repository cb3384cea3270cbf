"""The trainer's settings, read from the environment once, at the edge of the process."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from features.sequences import CONTEXT_BIT, TOKEN_BITS
from ingest.runtime.errors import ConfigError
from ingest.runtime.settings import KafkaSettings
from trainer.config import RunConfig, TrainerConfig
from trainer.model.config import Task
from trainer.recipes import find_recipe

# A context token is never a target, so its bit is no label.
_TARGET_BITS = {name: bit for name, bit in TOKEN_BITS.items() if bit != CONTEXT_BIT}


class TrainerSettings(KafkaSettings):
    """`FRESHET_TRAINER_*`."""

    model_config = SettingsConfigDict(env_prefix="FRESHET_TRAINER_", populate_by_name=True)

    recipe: str = Field(default="tiny_cpu", description="A name of trainer.recipes.")
    tasks: str = Field(
        default="click",
        description="Comma-separated tasks: an action's name, or name=action+action; "
        "behind @ the actions of which a target needs one to count, as in click@impression.",
    )
    checkpoint_dir: Path = Field(
        default=Path("build/run/checkpoints"), description="Directory of checkpoints."
    )
    export_dir: Path = Field(
        default=Path("build/run/exports"), description="Directory the publisher reads."
    )
    ne_log: Path = Field(
        default=Path("build/run/ne.jsonl"), description="The quality of every step, JSON lines."
    )
    export_every_seconds: float = Field(default=3.0, description="Least time between two exports.")
    checkpoint_every_steps: int = Field(default=200, description="Steps between checkpoints.")
    deterministic: bool = Field(
        default=False,
        description="Only full batches in the log's own order, whatever the wait.",
    )
    max_wait_seconds: float = Field(
        default=0.5,
        description="Longest wait for a full batch and for the log's order; not if deterministic.",
    )
    stop_at_clock_ms: int | None = Field(
        default=None, description="End when every partition's clock is here (UTC milliseconds)."
    )
    metrics_port: int = Field(
        default=0, description="Port of rank 0's /metrics, rank r's is r higher; 0 picks free ones."
    )
    table_rows: int | None = Field(default=None, description="Rows of the table, not the recipe's.")
    admit_after: int | None = Field(
        default=None,
        description="Tokens an id must be seen in before it gets a row, not the recipe's.",
    )
    idle_ttl_ms: int | None = Field(
        default=None,
        description="An id not seen for so long, by event time, loses its row (0: never), not the recipe's.",
    )
    token_budget: int | None = Field(
        default=None, description="Tokens of a full batch, not the recipe's."
    )
    threads: int | None = Field(default=None, description="CPU threads, not the recipe's.")
    attention_backend: str = Field(
        default="auto",
        description="How attention is computed: auto, or a name of interval attention's backends.",
    )
    rematerialize: bool = Field(
        default=False,
        description="Keep less of every layer for the backward pass and compute it anew.",
    )
    seed: int = Field(default=0, description="Seed of the initial weights and the negatives.")
    code_revision: str | None = Field(
        default=None,
        validation_alias="FRESHET_CODE_REVISION",
        description="What this code is called in checkpoints; by default git's name for it.",
    )

    def trainer_config(self) -> TrainerConfig:
        """The recipe's configuration with what these settings override.

        Raises:
            ConfigError: an unknown recipe or action, or a value that cannot work.
        """
        config = find_recipe(self.recipe)(parse_tasks(self.tasks))
        return replace(
            config,
            table_rows=config.table_rows if self.table_rows is None else self.table_rows,
            admit_after=config.admit_after if self.admit_after is None else self.admit_after,
            idle_ttl_ms=config.idle_ttl_ms if self.idle_ttl_ms is None else self.idle_ttl_ms,
            token_budget=config.token_budget if self.token_budget is None else self.token_budget,
            threads=config.threads if self.threads is None else self.threads,
            seed=self.seed,
            attention_backend=self.attention_backend,
            rematerialize=self.rematerialize,
        )

    def run_config(self) -> RunConfig:
        """Where and when this process writes.

        Raises:
            ConfigError: a value that cannot work.
        """
        return RunConfig(
            checkpoint_dir=self.checkpoint_dir,
            export_dir=self.export_dir,
            ne_log=self.ne_log,
            checkpoint_every_steps=self.checkpoint_every_steps,
            export_every_seconds=self.export_every_seconds,
            deterministic=self.deterministic,
            max_wait_seconds=self.max_wait_seconds,
            stop_at_clock_ms=self.stop_at_clock_ms,
            code_revision=self.code_revision or _git_revision(),
        )


def parse_tasks(text: str) -> tuple[Task, ...]:
    """Tasks and their masks of action bits.

    Raises:
        ConfigError: an action that is none.

    Example:
        >>> parse_tasks("click@impression, engaged=like+share")[0]
        Task(name='click', mask=2, among=1)
    """
    tasks = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        task, at, among = part.partition("@")
        name, _, actions = task.partition("=")
        mask = _mask(actions or name, part)
        tasks.append(Task(name.strip(), mask, _mask(among, part) if at else 0))
    return tuple(tasks)


def _mask(actions: str, part: str) -> int:
    mask = 0
    for action in actions.split("+"):
        if action.strip() not in _TARGET_BITS:
            raise ConfigError(
                "no such action",
                detail=f"{action.strip()!r} in task {part!r}; there are {sorted(_TARGET_BITS)}.",
            )
        mask |= _TARGET_BITS[action.strip()]
    return mask


def _git_revision() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"
