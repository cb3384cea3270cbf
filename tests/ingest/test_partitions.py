"""Our computation of Kafka's partitioner against kafka-python's."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import DefaultPartitioner, murmur2

from ingest.runtime.partitions import murmur2 as ours
from ingest.runtime.partitions import partition_of


@given(st.binary(max_size=40))
def test_murmur2_is_kafkas(data: bytes) -> None:
    assert ours(data) == murmur2(data) & 0xFFFFFFFF


@given(st.integers(0, 2**63 - 1), st.integers(1, 64))
def test_a_key_lands_where_kafka_puts_it(user_id: int, num_partitions: int) -> None:
    cluster = SimpleNamespace(
        topics=lambda: {"t"},
        partitions_for_topic=lambda topic: range(num_partitions),
        available_partitions_for_topic=lambda topic: range(num_partitions),
    )
    key = b"%d" % user_id
    kafkas = DefaultPartitioner().partition("t", key, key, b"", b"", cluster)
    assert partition_of(key, num_partitions) == kafkas
