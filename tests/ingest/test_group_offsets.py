"""Offsets of a consumer group, asked of a broker that is just getting ready for groups."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from kafka import TopicPartition
from kafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    NotCoordinatorError,
)

from ingest.runtime import kafka


def test_a_group_is_asked_for_again_until_the_broker_has_a_coordinator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: list[Exception | dict[str, object]] = [
        CoordinatorNotAvailableError(),
        NotCoordinatorError(),
        CoordinatorLoadInProgressError(),
        {
            "job": {
                TopicPartition("events", 1): SimpleNamespace(offset=7),
                TopicPartition("other", 0): SimpleNamespace(offset=9),
            }
        },
    ]

    def answer(group: str) -> object:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    @contextmanager
    def administering(bootstrap: str) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(list_group_offsets=answer)

    monkeypatch.setattr(kafka, "_administering", administering)
    assert kafka.group_offsets("", "job", "events") == {1: 7}
