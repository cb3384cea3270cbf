"""What the gateway reads from its environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from ingest.gateway.config import GatewayConfig
from ingest.runtime.settings import KafkaSettings


class GatewaySettings(KafkaSettings):
    """Settings of `python -m ingest.gateway`."""

    model_config = SettingsConfigDict(env_prefix="FRESHET_GATEWAY_")

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8081, ge=1, le=65_535, description="Port to listen on.")
    max_body_bytes: int = Field(
        default=4_000_000, ge=1_000, description="A larger request is answered 413."
    )
    max_batch_events: int = Field(
        default=10_000, ge=1, description="A request with more events is answered 413."
    )
    max_held_bytes: int = Field(
        default=64_000_000,
        ge=1_000,
        description="Bodies of requests not yet answered; above it a request is answered 429.",
    )
    delivery_timeout_seconds: float = Field(
        default=10.0, gt=0, description="How long the broker may take before a request fails."
    )
    quota_events_per_second: float | None = Field(
        default=None, gt=0, description="Of each producer (X-Producer); unset: no quota."
    )
    quota_burst: int = Field(
        default=10_000, ge=1, description="Events a producer may send at once under a quota."
    )
    remembered_events: int = Field(
        default=100_000, ge=0, description="Newest events whose re-sends are answered from memory."
    )
    ids_file: Path | None = Field(
        default=None, description="Dictionary of text ids; unset: text ids are refused."
    )
    max_text_ids: int = Field(
        default=1_000_000,
        ge=1,
        description="Text ids the dictionary may hold; further are refused.",
    )

    def config(self) -> GatewayConfig:
        """What the application needs of them."""
        return GatewayConfig(
            max_body_bytes=self.max_body_bytes,
            max_batch_events=self.max_batch_events,
            max_held_bytes=self.max_held_bytes,
            quota_events_per_second=self.quota_events_per_second,
            quota_burst=self.quota_burst,
            remembered_events=self.remembered_events,
        )
