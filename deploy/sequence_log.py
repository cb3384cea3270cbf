"""A running account of the `sequences` topic: what is in it, and how far the features job has come."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from features.sequences import Correction, Counters, Progress, decode
from ingest.runtime.kafka import Record, TopicReader, partitions_of
from ingest.runtime.topics import SEQUENCES

_NUM_RECENT_USERS = 200
_NONE = np.empty(0, np.int64)


@dataclass(kw_only=True)
class PartitionAccount:
    """One partition: its newest progress, and which events opened the targets of each message.

    `num_targets[i]` counts the targets of the first i messages; a correction is one with none.
    `correction_offsets` holds the late events behind corrections.
    """

    progress: Progress | None = None
    message_offsets: list[int] = field(default_factory=list)
    written_ms: list[int] = field(default_factory=list)
    num_targets: list[int] = field(default_factory=lambda: [0])
    target_offsets: list[npt.NDArray[np.int64]] = field(default_factory=list)
    correction_offsets: list[int] = field(default_factory=list)


class SequenceAccount:
    """The account of all partitions; pure, fed with records in offset order."""

    def __init__(self, partitions: Iterable[int]) -> None:
        self.partitions = {partition: PartitionAccount() for partition in partitions}
        self.recent_users: deque[int] = deque(maxlen=_NUM_RECENT_USERS)

    def add(self, records: Iterable[Record]) -> None:
        """Take in the next records."""
        for record in records:
            account = self.partitions[record.partition]
            message = decode(record.value)
            if isinstance(message, Progress):
                account.progress = message
                continue
            opened = _NONE
            if isinstance(message, Correction):
                account.correction_offsets.append(message.offset)
            else:
                # A copy: the view would keep the whole message, history and all.
                opened = message.target_offsets.copy()
                self.recent_users.append(message.user_id)
            account.message_offsets.append(record.offset)
            account.written_ms.append(record.timestamp_ms)
            account.num_targets.append(account.num_targets[-1] + len(opened))
            account.target_offsets.append(opened)

    def counters(self) -> Counters:
        """The newest counters of every partition, added up."""
        newest = [a.progress.counters for a in self.partitions.values() if a.progress is not None]
        return sum(newest, Counters())

    def clock_ms(self) -> int:
        """The furthest partition's clock."""
        progress = [account.progress for account in self.partitions.values()]
        return max((each.clock_ms for each in progress if each is not None), default=0)

    def num_targets(self) -> int:
        """Target rows in committed messages."""
        return sum(account.num_targets[-1] for account in self.partitions.values())

    def num_targets_after(self, positions: Mapping[int, int]) -> int:
        """Target rows a trainer at `positions` has not learned."""
        return sum(
            account.num_targets[-1] - account.num_targets[self._num_learned(partition, positions)]
            for partition, account in self.partitions.items()
        )

    def newest_learned_ms(self, positions: Mapping[int, int]) -> int | None:
        """When the newest message learned at `positions` was written; None before the first."""
        learned = [
            account.written_ms[num_messages - 1]
            for partition, account in self.partitions.items()
            if (num_messages := self._num_learned(partition, positions))
        ]
        return max(learned, default=None)

    def _num_learned(self, partition: int, positions: Mapping[int, int]) -> int:
        offsets = self.partitions[partition].message_offsets
        return bisect_left(offsets, positions.get(partition, 0))

    def num_distinct_targets(self) -> int:
        """Different events that opened a target: equal to `num_targets` when each is one once."""
        return sum(
            len(np.unique(np.concatenate(a.target_offsets)))
            for a in self.partitions.values()
            if a.target_offsets
        )

    def num_corrections(self) -> int:
        """Corrections in committed messages."""
        return sum(len(account.correction_offsets) for account in self.partitions.values())

    def num_distinct_corrections(self) -> int:
        """Different late events behind them: equal when each has led to one."""
        return sum(len(set(account.correction_offsets)) for account in self.partitions.values())

    def closed(self, event_ends: dict[int, int]) -> bool:
        """Whether the features job has closed over every event before `event_ends`."""
        return all(
            end == 0 or (account.progress is not None and account.progress.next_offset >= end)
            for account, end in ((self.partitions[p], end) for p, end in event_ends.items())
        )

    def learned_by(self, positions: Mapping[int, int]) -> bool:
        """Whether a trainer at `positions` has learned every message there is so far."""
        return all(
            self._num_learned(partition, positions) == len(account.message_offsets)
            for partition, account in self.partitions.items()
        )

    def opened_since(self, event_starts: dict[int, int]) -> Iterator[tuple[int, int, int]]:
        """(partition, event offset, message offset) of targets opened at or after `event_starts`."""
        for partition, account in self.partitions.items():
            start = event_starts[partition]
            for message, opened in zip(
                account.message_offsets, account.target_offsets, strict=True
            ):
                for offset in opened[opened >= start].tolist():
                    yield partition, offset, message


class SequenceLog:
    """A SequenceAccount that follows a real topic."""

    def __init__(self, bootstrap: str) -> None:
        partitions = partitions_of(bootstrap, SEQUENCES)
        self.account = SequenceAccount(partitions)
        self._reader = TopicReader(bootstrap, SEQUENCES, dict.fromkeys(partitions, 0))

    def follow(self, timeout_seconds: float = 0.2) -> SequenceAccount:
        """Take in what came since and return the account."""
        self.account.add(self._reader.poll(timeout_seconds))
        return self.account

    def follow_to_end(self) -> SequenceAccount:
        """Take in all that is committed by now and return the account."""
        while not self._reader.drained():
            self.follow()
        return self.account

    def close(self) -> None:
        """Leave the broker."""
        self._reader.close()
