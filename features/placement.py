"""Keys that Flink spreads evenly: of few partitions, its hash puts three in one task and none in the next.

Flink sends a record to the task whose range of key groups holds the hash of the record's key. So
partition p's key is searched for: the first `p + i * num_partitions` that falls into the group in
the middle of p's share of all groups. Flink deals groups to any parallelism in
order, hence tasks whose number divides that of the partitions (up to 64) have equally many, any
other number of tasks nearly so, and a restored job may change it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count

# Part of stored state: a job restored with another number of key groups does not find its own.
NUM_KEY_GROUPS = 128

_MASK = 0xFFFFFFFF
_WINDOW_SEED = 42


def operator_keys(num_partitions: int) -> list[int]:
    """The key of each partition where a Python operator follows.

    Example:
        >>> keys = operator_keys(4)
        >>> [key % 4 for key in keys], [task_of(operator_key_group(key), 2) for key in keys]
        ([0, 1, 2, 3], [0, 0, 1, 1])
    """
    return _keys(num_partitions, operator_key_group)


def window_keys(num_partitions: int) -> list[int]:
    """The key of each partition where a SQL aggregate follows, which hashes in another way."""
    return _keys(num_partitions, window_key_group)


def task_of(key_group: int, parallelism: int) -> int:
    """Which of `parallelism` tasks has a key group."""
    return key_group * parallelism // NUM_KEY_GROUPS


def operator_key_group(key: int) -> int:
    """The key group of a PyFlink `key_by` whose key is one INT: a Row of it, hashed as Java does."""
    return _key_group(62 + key)


def window_key_group(key: int) -> int:
    """The key group of a SQL GROUP BY of one INT NOT NULL: a binary row, hashed word by word."""
    mixed = _WINDOW_SEED
    for word in (0, 0, key, 0):
        mixed = _mix(mixed, word)
    return _key_group(_finish(mixed ^ 16))


def _keys(num_partitions: int, key_group: Callable[[int], int]) -> list[int]:
    return [
        _first(
            count(partition, num_partitions),
            key_group,
            (2 * partition + 1) * NUM_KEY_GROUPS // (2 * num_partitions),
        )
        for partition in range(num_partitions)
    ]


def _first(keys: Iterable[int], key_group: Callable[[int], int], wanted: int) -> int:
    return next(key for key in keys if key_group(key) == wanted)


def _key_group(code: int) -> int:
    mixed = _finish(_mix(0, code) ^ 4)
    signed = mixed - (1 << 32) if mixed >> 31 else mixed
    return abs(signed) % NUM_KEY_GROUPS


def _mix(mixed: int, word: int) -> int:
    word = _rotate(word * 0xCC9E2D51 & _MASK, 15) * 0x1B873593 & _MASK
    return (_rotate(mixed ^ word, 13) * 5 + 0xE6546B64) & _MASK


def _finish(mixed: int) -> int:
    mixed = (mixed ^ mixed >> 16) * 0x85EBCA6B & _MASK
    mixed = (mixed ^ mixed >> 13) * 0xC2B2AE35 & _MASK
    return mixed ^ mixed >> 16


def _rotate(word: int, bits: int) -> int:
    return (word << bits | word >> (32 - bits)) & _MASK
