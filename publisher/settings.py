"""The publisher's environment variables."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from ingest.runtime.settings import KafkaSettings
from publisher.service import PublisherConfig


class PublisherSettings(KafkaSettings):
    """Read from FRESHET_PUBLISHER_*."""

    model_config = SettingsConfigDict(env_prefix="FRESHET_PUBLISHER_")

    exports: Path = Field(description="Directory the trainer writes its hand-overs to.")
    store: Path = Field(description="Root directory of the snapshot store.")
    model_name: str = Field(default="freshet", description="Name versions are published under.")
    keep_versions: int = Field(
        default=5, description="Newest versions kept in the store; the one pointed to always is."
    )
    poll_seconds: float = Field(default=0.5, description="Pause between two looks at the exports.")
    metrics_port: int = Field(default=9103, description="Port of /metrics; 0 picks a free one.")
    metrics_host: str = Field(default="127.0.0.1", description="Address /metrics listens on.")

    def config(self) -> PublisherConfig:
        """The validated configuration.

        Raises:
            ConfigError: a value that cannot work.
        """
        return PublisherConfig(
            exports=self.exports,
            store=self.store,
            model_name=self.model_name,
            keep_versions=self.keep_versions,
            poll_seconds=self.poll_seconds,
        )
