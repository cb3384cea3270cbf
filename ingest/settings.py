"""What the room reads from its environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from ingest.runtime.settings import KafkaSettings


class IngestSettings(KafkaSettings):
    """Settings of every command of the room."""

    model_config = SettingsConfigDict(env_prefix="FRESHET_INGEST_")

    num_partitions: int = Field(
        default=4, ge=1, description="Partitions of the topics that are keyed by user."
    )
    state_directory: Path = Field(
        default=Path("build/replay"), description="Where replays keep their progress."
    )
    cache_directory: Path = Field(
        default=Path("build/datasets"), description="Where fetched data sets are kept."
    )
    delivery_timeout_seconds: float = Field(
        default=60.0, gt=0, description="How long the broker may be away before a send fails."
    )
    metrics_port: int | None = Field(
        default=None, ge=0, le=65_535, description="Serve /metrics here; unset: not at all."
    )
