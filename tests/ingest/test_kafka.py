"""Our Kafka clients when the broker goes away in the middle; no broker."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import Mock

import pytest
from kafka.errors import KafkaTimeoutError

from ingest.runtime.errors import BrokerError
from ingest.runtime.kafka import (
    cluster_id,
    create_topics,
    partitions_of,
    read_all,
    topic_partitions,
)


def test_reading_a_topic_whose_broker_died_ends_with_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader = Mock()
    reader.end_offsets.return_value = {0: 9}
    reader.next_offsets.return_value = {0: 3}
    reader.poll.return_value = []
    monkeypatch.setattr("ingest.runtime.kafka.TopicReader", lambda *_: reader)
    monkeypatch.setattr("ingest.runtime.kafka.partitions_of", lambda *_: [0])
    monkeypatch.setattr("ingest.runtime.kafka._STALL_SECONDS", -1)
    with pytest.raises(BrokerError, match="reading events does not go on") as caught:
        read_all("broker", "events")
    assert caught.value.retriable
    reader.close.assert_called_once()


@pytest.mark.parametrize(
    "ask",
    [
        cluster_id,
        topic_partitions,
        lambda broker: create_topics(broker, 1),
        lambda broker: partitions_of(broker, "events"),
    ],
)
def test_a_question_the_broker_does_not_answer_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch, ask: Callable[[str], object]
) -> None:
    client = Mock()
    for name in ("partitions_for_topic", "list_topics", "describe_topics", "describe_cluster"):
        getattr(client, name).side_effect = KafkaTimeoutError("no answer")
    monkeypatch.setattr("ingest.runtime.kafka.KafkaConsumer", lambda **_: client)
    monkeypatch.setattr("ingest.runtime.kafka.KafkaAdminClient", lambda **_: client)
    with pytest.raises(BrokerError, match=r"somewhere:1.*no answer"):
        ask("somewhere:1")
    client.close.assert_called_once()
