"""What must be true of the topics before the job may start: else its state is about other logs."""

from __future__ import annotations

import json
from pathlib import Path

from ingest.runtime.errors import BrokerError, ConfigError
from ingest.runtime.kafka import TopicReader, group_offsets, partitions_of, topic_ids
from ingest.runtime.topics import EVENTS, EVENTS_DEAD, EVENTS_LATE, SEQUENCES


def require_aligned_topics(bootstrap: str) -> int:
    """The partition count `events` and `sequences` share.

    Raises:
        BrokerError: the broker does not answer, a topic is missing, or the counts differ.
    """
    found = {name: len(partitions_of(bootstrap, name)) for name in (EVENTS, SEQUENCES)}
    for name in (EVENTS_LATE, EVENTS_DEAD):
        partitions_of(bootstrap, name)
    if found[EVENTS] != found[SEQUENCES]:
        raise BrokerError(
            "partition counts differ",
            detail=f"{EVENTS} has {found[EVENTS]}, {SEQUENCES} has {found[SEQUENCES]}.",
            hint="a user's events and sequences lie in the partition of one number: "
            "create both topics anew with one count",
        )
    return found[EVENTS]


def require_no_sequences(bootstrap: str, num_partitions: int) -> None:
    """Raise ConfigError when something is committed to `sequences`: beginning anew would double it."""
    reader = TopicReader(bootstrap, SEQUENCES, dict.fromkeys(range(num_partitions), 0))
    try:
        while not reader.drained():
            if reader.poll(0.5):
                raise ConfigError(
                    "no checkpoint, but sequences already has messages",
                    detail="The job would read events from the start and write all of them again.",
                    hint="set FRESHET_FEATURES_STATE_DIRECTORY to the old state, "
                    "or recreate the topics",
                )
    finally:
        reader.close()


def note_topics(bootstrap: str, state_directory: Path) -> None:
    """Write down which topics the state that now begins is about, for `require_same_topics`."""
    _ids_file(state_directory).write_text(json.dumps(topic_ids(bootstrap, (EVENTS, SEQUENCES))))


def require_same_topics(bootstrap: str, state_directory: Path) -> None:
    """Hold the topics' ids against those noted when the state began.

    Under an old name a new topic counts its offsets anew: the restored job would go on in the
    middle of another log.

    Raises:
        ConfigError: a topic was deleted and created since, or the ids were not noted.
        BrokerError: the broker does not answer.
    """
    file = _ids_file(state_directory)
    try:
        noted = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            "the state does not say which topics it is about",
            detail=f"{file}: {error}.",
            hint="state from before this file was written cannot go on: recreate the topics and "
            "empty FRESHET_FEATURES_STATE_DIRECTORY",
        ) from error
    found = topic_ids(bootstrap, (EVENTS, SEQUENCES))
    if noted != found:
        raise ConfigError(
            "the topics are not those of this state",
            detail=f"Their ids were {noted}, now they are {found}.",
            hint="topics that were recreated need an empty FRESHET_FEATURES_STATE_DIRECTORY",
        )


def require_unread_events(bootstrap: str, group: str, num_partitions: int) -> None:
    """Raise ConfigError when retention deleted events the job, by its group's offsets, never read."""
    reader = TopicReader(bootstrap, EVENTS, dict.fromkeys(range(num_partitions), 0))
    try:
        beginnings = reader.beginning_offsets()
    finally:
        reader.close()
    read = group_offsets(bootstrap, group, EVENTS)
    lost = {p: (read[p], first) for p, first in beginnings.items() if read.get(p, first) < first}
    if lost:
        raise ConfigError(
            "events were deleted before they were read",
            detail=f"Partition -> (next to read, first in the log): {lost}.",
            hint="without them nothing adds up: recreate the topics, empty "
            "FRESHET_FEATURES_STATE_DIRECTORY, and raise the retention of events",
        )


def _ids_file(state_directory: Path) -> Path:
    return state_directory / "topics.json"
