"""Which partition a Kafka key lands in, computed as Kafka's default partitioner does."""

from __future__ import annotations

_MASK = 0xFFFFFFFF
_MULTIPLIER = 0x5BD1E995
_SEED = 0x9747B28C


def murmur2(data: bytes) -> int:
    """Kafka's 32-bit murmur2 of a key, unsigned.

    Example:
        >>> murmur2(b"21")
        3321034988
    """
    length = len(data)
    whole = length & ~3
    mixed = (_SEED ^ length) & _MASK
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * _MULTIPLIER & _MASK
        word = (word ^ word >> 24) * _MULTIPLIER & _MASK
        mixed = mixed * _MULTIPLIER & _MASK ^ word
    if whole < length:
        mixed = (mixed ^ int.from_bytes(data[whole:], "little")) * _MULTIPLIER & _MASK
    mixed = (mixed ^ mixed >> 13) * _MULTIPLIER & _MASK
    return mixed ^ mixed >> 15


def partition_of(key: bytes, num_partitions: int) -> int:
    """The partition the default partitioner of kafka-python and of the Java client picks for a key."""
    return (murmur2(key) & 0x7FFFFFFF) % num_partitions
