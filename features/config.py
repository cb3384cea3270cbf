"""What the features job can be told, checked once at the start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ingest.runtime.errors import ConfigError

Impressions = Literal["history", "targets", "folded"]


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
        impressions: what becomes of a token that is nothing but impressions: "history" makes it a
            target (a negative) and then history, "targets" only a target, "folded" leaves it out.
        session_gap_ms: the first target this long after the user's last one before carries
            SESSION_START_BIT; no shorter than the join window, else the bit would tell what follows.
        correction_window_ms: a late event of a token already emitted becomes a correction up to
            this long behind the clock; 0 refuses every late event.
        attribution_ms: a purchase or return with no token of its own within the join window corrects
            the newest token of its item up to this much older; 0 makes it a target.
        max_amendments: of a user, corrected tokens that targets still to come may not see yet; at it
            a late event is refused and a purchase becomes a target.
        context_features: names in `context` whose changes become context tokens.
        user_ttl_ms: a user silent for this long, by the clock, is forgotten.
        max_users: of a partition; at it the longest silent are forgotten.
        cached_users: of a partition, how many users stay in memory between micro-batches, beside
            those with pending events. Changes nothing that comes out.
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
    impressions: Impressions = "history"
    session_gap_ms: int = 1_800_000
    correction_window_ms: int = 259_200_000
    attribution_ms: int = 0
    max_amendments: int = 64
    context_features: tuple[str, ...] = ()
    user_ttl_ms: int = 7_776_000_000
    max_users: int = 2_000_000
    cached_users: int = 50_000
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
        if self.impressions not in get_args(Impressions):
            raise ConfigError(
                "impressions is no policy",
                detail=f"impressions={self.impressions!r}, one of {get_args(Impressions)} is needed.",
            )
        self._at_least("session_gap_ms", self.join_window_ms, "join_window_ms")
        self._at_least("correction_window_ms", 0)
        self._at_least("attribution_ms", 0)
        self._at_least("max_amendments", 1)
        if len(set(self.context_features)) != len(self.context_features):
            raise ConfigError("context_features names one twice", detail=f"{self.context_features}")
        waits_ms = self.emit_after_ms + self.join_window_ms + self.bound_ms
        waits = "emit_after_ms + join_window_ms + bound_ms"
        self._at_least("user_ttl_ms", max(waits_ms, 1), waits)
        self._at_least("max_users", 1)
        self._at_least("cached_users", 0)
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
