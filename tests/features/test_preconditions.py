"""The job refuses topics that are not those of its state, with the reason."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from features import preconditions
from features.preconditions import (
    note_topics,
    require_no_sequences,
    require_same_topics,
    require_unread_events,
)
from ingest.runtime.errors import ConfigError


class Reader:
    """Reads `polls` in turn; stands in for a TopicReader of `sequences`."""

    def __init__(self, *polls: list[str]) -> None:
        self._polls = list(polls)

    def __call__(self, *_: object) -> Reader:
        return self

    def drained(self) -> bool:
        return not self._polls

    def poll(self, timeout_seconds: float) -> list[str]:
        return self._polls.pop(0)

    def close(self) -> None:
        self._polls.clear()


def test_a_job_without_checkpoint_begins_only_before_empty_sequences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preconditions, "TopicReader", Reader([], []))
    require_no_sequences("", 1)
    monkeypatch.setattr(preconditions, "TopicReader", Reader([], ["message"]))
    with pytest.raises(ConfigError, match=r"already has messages.*STATE_DIRECTORY"):
        require_no_sequences("", 1)


def test_state_goes_on_only_with_the_topics_it_began_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ids = {"events": "a", "sequences": "b"}
    monkeypatch.setattr(preconditions, "topic_ids", lambda *_: dict(ids))
    note_topics("", tmp_path)
    require_same_topics("", tmp_path)
    ids["events"] = "c"
    with pytest.raises(ConfigError, match=r"not those of this state.*'a'.*'c'"):
        require_same_topics("", tmp_path)


@pytest.mark.parametrize("noted", [None, "", '{"events":'])
def test_state_that_does_not_say_which_topics_it_is_about_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, noted: str | None
) -> None:
    monkeypatch.setattr(preconditions, "topic_ids", lambda *_: {})
    if noted is not None:
        (tmp_path / "topics.json").write_text(noted)
    with pytest.raises(ConfigError, match=r"which topics it is about.*topics\.json"):
        require_same_topics("", tmp_path)


@pytest.mark.parametrize(
    ("read", "lost"), [({}, False), ({0: 7, 1: 5}, False), ({0: 7, 1: 4}, True)]
)
def test_events_deleted_before_they_were_read_are_an_error(
    monkeypatch: pytest.MonkeyPatch, read: dict[int, int], lost: bool
) -> None:
    reader = SimpleNamespace(beginning_offsets=lambda: {0: 0, 1: 5}, close=lambda: None)
    monkeypatch.setattr(preconditions, "TopicReader", lambda *_: reader)
    monkeypatch.setattr(preconditions, "group_offsets", lambda *_: read)
    if lost:
        with pytest.raises(ConfigError, match=r"deleted before.*\{1: \(4, 5\)\}"):
            require_unread_events("", "group", 2)
    else:
        require_unread_events("", "group", 2)
