"""The conservation law, checked twice: by the job's own counters and by what lies in the topics."""

from __future__ import annotations

from dataclasses import dataclass

from features.sequences import Counters


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What a run left behind, beside what the features job counted.

    `events_sent` counts what the sender sent; `events_in_topic` records of `events`, heartbeats too; `targets_in_topic` target rows of
    committed messages; `distinct_targets` the different events that opened them;
    `corrections_in_topic` and `distinct_corrections` are the same of corrections and the late
    events behind them; `targets_trained` and `corrections_trained` what the trainer says it learned.
    """

    counters: Counters
    events_sent: int
    events_in_topic: int
    targets_in_topic: int
    distinct_targets: int
    corrections_in_topic: int
    distinct_corrections: int
    targets_trained: int
    corrections_trained: int
    late_in_topic: int
    dead_in_topic: int
    dead_at_door: int

    def problems(self) -> list[str]:
        """Every way in which the law does not hold; empty when it does.

        Example:
            >>> Audit(counters=Counters(events=2, targets=1, late=1), events_sent=2, events_in_topic=2,
            ...       targets_in_topic=1, distinct_targets=1, corrections_in_topic=0,
            ...       distinct_corrections=0, targets_trained=0, corrections_trained=0,
            ...       late_in_topic=1, dead_in_topic=0, dead_at_door=0).problems()
            ['targets in the topic and trained: 1 != 0']
        """
        counted = self.counters
        records = counted.events + counted.heartbeats
        pairs = [
            ("events unaccounted for", counted.imbalance(), 0),
            ("events counted and sent", counted.events + self.dead_at_door, self.events_sent),
            ("events still pending", counted.pending, 0),
            ("records counted and in the topic", records, self.events_in_topic),
            ("targets counted and in the topic", counted.targets, self.targets_in_topic),
            ("targets in the topic and different", self.targets_in_topic, self.distinct_targets),
            ("targets in the topic and trained", self.targets_in_topic, self.targets_trained),
            (
                "corrections counted and in the topic",
                counted.corrections,
                self.corrections_in_topic,
            ),
            (
                "corrections in the topic and different",
                self.corrections_in_topic,
                self.distinct_corrections,
            ),
            (
                "corrections in the topic and trained",
                self.corrections_in_topic,
                self.corrections_trained,
            ),
            ("late counted and in the topic", counted.late, self.late_in_topic),
            ("dead counted and in the topic", counted.dead + self.dead_at_door, self.dead_in_topic),
        ]
        return [f"{what}: {found} != {wanted}" for what, found, wanted in pairs if found != wanted]
