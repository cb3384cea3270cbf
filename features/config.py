"""What the features job can be told, checked once at the start."""

from __future__ import annotations

from dataclasses import dataclass

from ingest.runtime.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """The semantics of the join and of emission, and the rhythm of the job around it.

    Everything in event time (`*_ms`) decides what comes out; `*_seconds` are wall clock and only
    decide when it comes out.

    Args:
        bound_ms: how far events may arrive out of order; the horizon is the clock less this.
        join_window_ms: events of a user on an item this long after the first are one token.
        emit_after_ms: a pending token waits this long, counted from its first event.
        max_targets: K, a message holds at most so many targets unless overlap forces more; also,
            emission is tried whenever a user's pending events reach a multiple of it.
        max_pending: hard bound on a user's pending events; at it all of them are emitted.
        max_history: N, tokens before the targets in a message.
        long_watch_ms: a token watched at least this long carries LONG_WATCH_BIT.
        remembered_ids: how many of a user's newest event ids duplicates are recognised by.
        future_bound_ms: how far past its record's arrival an event time may lie.
        micro_batch_seconds: how long Flink gathers records for one call into Python.
        checkpoint_interval_seconds: time between commits, which bounds freshness from below.

    Raises:
        ConfigError: a value that cannot work; names the field.

    Example:
        >>> FeaturesConfig(max_targets=4).max_targets
        4
    """

    bound_ms: int = 10_000
    join_window_ms: int = 60_000
    emit_after_ms: int = 60_000
    max_targets: int = 16
    max_pending: int = 512
    max_history: int = 128
    long_watch_ms: int = 30_000
    remembered_ids: int = 256
    future_bound_ms: int = 300_000
    micro_batch_seconds: float = 0.2
    checkpoint_interval_seconds: float = 1.0

    def __post_init__(self) -> None:
        """Check every field against its range and its neighbours."""
        self._at_least("bound_ms", 0)
        self._at_least("join_window_ms", 0)
        self._at_least("emit_after_ms", self.join_window_ms, "join_window_ms")
        self._at_least("max_targets", 1)
        self._at_least("max_pending", self.max_targets, "max_targets")
        self._at_least("max_history", 0)
        self._at_least("long_watch_ms", 1)
        self._at_least("remembered_ids", 1)
        self._at_least("future_bound_ms", 0)
        self._at_least("micro_batch_seconds", 0.001)
        # SQL writes the micro-batch as an interval of at most two digits of seconds.
        self._at_most("micro_batch_seconds", 60)
        self._at_least("checkpoint_interval_seconds", 0.01)
        self._at_most("checkpoint_interval_seconds", 600)

    def _at_least(self, name: str, limit: float, limit_name: str = "") -> None:
        value = getattr(self, name)
        if not value >= limit:
            of = f" ({limit_name})" if limit_name else ""
            raise ConfigError(
                f"{name} too small",
                detail=f"{name}={value}, at least {limit}{of} is needed.",
            )

    def _at_most(self, name: str, limit: float) -> None:
        value = getattr(self, name)
        if not value <= limit:
            raise ConfigError(f"{name} too large", detail=f"{name}={value}, at most {limit} works.")
