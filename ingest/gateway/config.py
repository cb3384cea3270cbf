"""The bounds of the gateway."""

from __future__ import annotations

from dataclasses import dataclass

from ingest.runtime.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class GatewayConfig:
    """Bounds of the gateway; see the settings for their meanings.

    Raises:
        ConfigError: a request could never be held.
    """

    max_body_bytes: int = 4_000_000
    max_batch_events: int = 10_000
    max_held_bytes: int = 64_000_000
    quota_events_per_second: float | None = None
    quota_burst: int = 10_000
    remembered_events: int = 100_000

    def __post_init__(self) -> None:
        if self.max_held_bytes < self.max_body_bytes:
            raise ConfigError(
                "max_held_bytes is below max_body_bytes",
                detail=f"They are {self.max_held_bytes} and {self.max_body_bytes}.",
            )
