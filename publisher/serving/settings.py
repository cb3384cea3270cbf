"""The server's environment variables."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from ingest.runtime.settings import KafkaSettings
from publisher.serving.config import ServingConfig


class ServingSettings(KafkaSettings):
    """Read from FRESHET_SERVING_*."""

    model_config = SettingsConfigDict(env_prefix="FRESHET_SERVING_")

    store: Path = Field(description="Root directory of the snapshot store.")
    model_name: str = Field(default="freshet", description="Name the versions are published under.")
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8080, description="Port to listen on; 0 picks a free one.")
    address_file: Path | None = Field(
        default=None, description="File that gets the address, http://host:port, once it listens."
    )
    max_users: int = Field(
        default=100_000, description="Users whose history is kept; the longest silent one goes."
    )
    max_history: int = Field(
        default=512, description="Tokens kept of a user; a version that needs more is refused."
    )
    max_candidates: int = Field(default=10_000, description="Candidates allowed in a request.")
    max_k: int = Field(default=1_000, description="Recommendations allowed in a request.")
    max_body_bytes: int = Field(default=4 * 1024 * 1024, description="Largest request body.")
    max_waiting: int = Field(default=64, description="Requests in work or waiting; more get 503.")
    shortlist: int = Field(default=200, description="Least items retrieval hands to ranking.")
    micro_batch: int = Field(default=128, description="Candidates scored at once.")
    cached_histories: int = Field(default=1_000, description="Encoded histories kept, per version.")
    version_records: int = Field(default=10_000, description="Entries GET /versions remembers.")
    num_workers: int = Field(default=1, description="Threads that score.")
    torch_threads: int = Field(default=1, description="Threads inside one tensor operation.")
    attention_backend: str = Field(
        default="auto",
        description="How attention is computed: auto, or a name of interval attention's backends.",
    )

    def config(self) -> ServingConfig:
        """The validated configuration.

        Raises:
            ConfigError: a value that cannot work.
        """
        return ServingConfig(
            **self.model_dump(exclude={"bootstrap", "log_level", "host", "port", "address_file"})
        )
