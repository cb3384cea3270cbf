"""The settings every process that speaks to Kafka reads from its environment."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings

from ingest.runtime.errors import ConfigError

S = TypeVar("S", bound=BaseSettings)


class KafkaSettings(BaseSettings):
    """Where the broker is."""

    bootstrap: str = Field(
        default="127.0.0.1:9092",
        validation_alias="FRESHET_BOOTSTRAP",
        description="Kafka bootstrap servers, host:port, comma-separated.",
    )
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(str.upper)
    ] = Field(
        default="INFO",
        validation_alias="FRESHET_LOG_LEVEL",
        description="DEBUG, INFO, WARNING or ERROR.",
    )


def read_settings(cls: type[S]) -> S:
    """Read settings from the environment.

    Raises:
        ConfigError: one is missing or malformed; the message names its variable.
    """
    try:
        return cls()
    except ValidationError as error:
        prefix = cls.model_config.get("env_prefix", "")
        problems = [
            f"{name if (name := str(p['loc'][0])).isupper() else prefix + name.upper()}: {p['msg']}"
            for p in error.errors()
        ]
        raise ConfigError(
            "settings refused", detail="; ".join(problems), hint="set these environment variables"
        ) from error
