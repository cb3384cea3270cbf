"""What was refused, read back: by reason, one by one, and again into `events` once it is an event."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ingest.events import Event, InvalidEvent, decode_record, partition_key
from ingest.producer import EventProducer
from ingest.replay_state import RedriveState, StateFile
from ingest.runtime.kafka import Record, cluster_id, read_all, topic_ids
from ingest.runtime.lock import lock_directory
from ingest.runtime.topics import EVENTS_DEAD

_RECORDS_PER_SAVE = 1_000


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """One record of `events.dead`.

    `source` is where it stood, as topic/partition/offset, log/row or gateway/producer; `num_bytes`
    how long it was there: more than `value` has where it was cut to fit into a message.
    """

    offset: int
    arrival_ms: int
    reason: str
    detail: str
    source: str
    num_bytes: int
    value: bytes

    def event(self) -> Event | None:
        """The event these bytes are by now; None where they still are none."""
        if self.num_bytes > len(self.value):
            return None
        try:
            record = decode_record(self.value)
        except InvalidEvent:
            return None
        return record if isinstance(record, Event) else None


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which dead letters: all that every given condition holds for; offsets are inclusive."""

    reasons: frozenset[str] = frozenset()
    source_prefix: str = ""
    first_offset: int = 0
    last_offset: int | None = None

    def holds(self, letter: DeadLetter) -> bool:
        """Whether a letter is selected."""
        return (
            (not self.reasons or letter.reason in self.reasons)
            and letter.source.startswith(self.source_prefix)
            and letter.offset >= self.first_offset
            and (self.last_offset is None or letter.offset <= self.last_offset)
        )


@dataclass(frozen=True, kw_only=True)
class RedriveSummary:
    """What a redrive did: of the `selected`, each was sent, sent before, or is still no event."""

    selected: int
    sent: int
    sent_before: int
    still_invalid: int


def read_dead_letters(bootstrap: str) -> list[DeadLetter]:
    """Every dead letter, oldest first.

    Raises:
        BrokerError: no broker answers, or there is no such topic.
    """
    return [_dead_letter(record) for record in read_all(bootstrap, EVENTS_DEAD)]


def _dead_letter(record: Record) -> DeadLetter:
    headers = {name: value.decode(errors="replace") for name, value in record.headers}
    num_bytes = headers.get("num_bytes", "")
    return DeadLetter(
        offset=record.offset,
        arrival_ms=record.timestamp_ms,
        reason=headers.get("reason", ""),
        detail=headers.get("detail", ""),
        source=headers.get("source", ""),
        num_bytes=int(num_bytes) if num_bytes.isdecimal() else len(record.value),
        value=record.value,
    )


def redrive(
    letters: Iterable[DeadLetter], producer: EventProducer, state_directory: Path
) -> RedriveSummary:
    """Send selected letters that are events by now to `events`, their bytes unchanged, each once.

    What was sent is noted in the state directory, on this machine only, after the broker has
    confirmed it. A crash between the two sends up to 1,000 of them twice, with the same event ids,
    by which features drop the second.

    Raises:
        BrokerError: the broker did not confirm in time.
        ConfigError: another redrive runs with this state directory.
        ReplayStateError: what was noted is about another cluster or topic, or damaged.
    """
    directory = state_directory / "redrive"
    with lock_directory(directory, hint="wait for the other redrive"):
        return _redrive(list(letters), producer, _ledger(directory, producer.bootstrap))


def _ledger(directory: Path, bootstrap: str) -> StateFile[RedriveState]:
    return StateFile(
        directory / "redriven.json",
        RedriveState,
        # Offsets of a topic created anew begin again, and would pass for sent.
        {
            "cluster": cluster_id(bootstrap),
            "topic": topic_ids(bootstrap, [EVENTS_DEAD])[EVENTS_DEAD],
        },
        hint="name another FRESHET_INGEST_STATE_DIRECTORY: there every letter counts as not yet sent",
    )


def _redrive(
    selected: list[DeadLetter], producer: EventProducer, ledger: StateFile[RedriveState]
) -> RedriveSummary:
    saved = ledger.load() or RedriveState(redriven=[])
    done = {offset for first, last in saved.redriven for offset in range(first, last + 1)}
    due = [letter for letter in selected if letter.offset not in done]
    events = [(letter, event) for letter in due if (event := letter.event()) is not None]
    for start in range(0, len(events), _RECORDS_PER_SAVE):
        part = events[start : start + _RECORDS_PER_SAVE]
        for letter, event in part:
            producer.send_raw(partition_key(event.user_id), letter.value)
        producer.flush()
        done.update(letter.offset for letter, _ in part)
        ledger.save(RedriveState(redriven=ranges_of(done)))
    return RedriveSummary(
        selected=len(selected),
        sent=len(events),
        sent_before=len(selected) - len(due),
        still_invalid=len(due) - len(events),
    )


def ranges_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Distinct integers as inclusive ranges, ascending.

    Example:
        >>> ranges_of([5, 1, 2])
        [(1, 2), (5, 5)]
    """
    ranges: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges
