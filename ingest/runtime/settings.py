"""The settings every process that speaks to Kafka reads from its environment."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings


class KafkaSettings(BaseSettings):
    """Where the broker is."""

    bootstrap: str = Field(
        default="127.0.0.1:9092",
        validation_alias="FRESHET_BOOTSTRAP",
        description="Kafka bootstrap servers, host:port, comma-separated.",
    )
    log_level: str = Field(
        default="INFO",
        validation_alias="FRESHET_LOG_LEVEL",
        description="DEBUG, INFO, WARNING or ERROR.",
    )
