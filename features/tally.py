"""What a partition has counted since its first offset."""

from __future__ import annotations

import msgspec

from features.sequences import Counters


class Tally(msgspec.Struct):
    """The conservation law's terms as they grow, and what happened at each bound.

    `forced_emissions` at `max_pending`, `refused_amendments` at `max_amendments`, `evicted_users` at
    `max_users`, `expired_users` by `user_ttl_ms`.
    """

    events: int = 0
    targets: int = 0
    corrections: int = 0
    folded: int = 0
    filtered: int = 0
    duplicates: int = 0
    late: int = 0
    dead: int = 0
    heartbeats: int = 0
    pending: int = 0
    forced_emissions: int = 0
    refused_amendments: int = 0
    evicted_users: int = 0
    expired_users: int = 0

    def counters(self) -> Counters:
        """The terms of the law alone, as a progress message carries them."""
        return Counters(
            events=self.events,
            targets=self.targets,
            corrections=self.corrections,
            folded=self.folded,
            filtered=self.filtered,
            duplicates=self.duplicates,
            late=self.late,
            dead=self.dead,
            heartbeats=self.heartbeats,
            pending=self.pending,
        )
