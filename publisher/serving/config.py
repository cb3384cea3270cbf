"""The server's limits."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from ingest.runtime.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ServingConfig:
    """What the server keeps, accepts and uses; every number is a limit of at least 1.

    `max_history` bounds the tokens kept of a user: a version that needs more is refused at load.
    `micro_batch` candidates are scored at once; the scores do not depend on it.
    `attention_backend` is a name of interval attention's backends, or "auto".

    Raises:
        ConfigError: a value that cannot work; the message names the field.
    """

    store: Path
    model_name: str = "freshet"
    max_users: int = 100_000
    max_history: int = 512
    max_candidates: int = 10_000
    max_k: int = 1_000
    max_body_bytes: int = 4 * 1024 * 1024
    max_waiting: int = 64
    shortlist: int = 200
    micro_batch: int = 128
    cached_histories: int = 1_000
    version_records: int = 10_000
    num_workers: int = 1
    torch_threads: int = 1
    attention_backend: str = "auto"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and value < 1:
                raise ConfigError(f"{field.name} refused", detail=f"It is {value}, least 1.")
