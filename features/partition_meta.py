"""The state of a partition that belongs to no user, packed."""

from __future__ import annotations

import struct

import msgspec

from features.tally import Tally
from ingest.runtime.errors import FreshetError

_LAYOUT = 2
_NUM_COUNTS = len(Tally.__struct_fields__)
_META = struct.Struct(f"<BIIqqq{_NUM_COUNTS}q")


def pack_meta(
    place: tuple[int, int], position: tuple[int, int, int], tally: Tally, touches: bytes
) -> bytes:
    """Pack a partition's state.

    Args:
        place: the partition, and how many there are.
        position: clock, next offset, number of users.
        tally: its counts.
        touches: what `TouchLog.save` returned.
    """
    return _META.pack(_LAYOUT, *place, *position, *msgspec.structs.astuple(tally)) + touches


def unpack_meta(
    meta: bytes, place: tuple[int, int]
) -> tuple[tuple[int, int, int], tuple[int, ...], bytes]:
    """The position, the counts and the touches that `pack_meta` packed.

    Raises:
        FreshetError: state of another layout, partition or partition count.
    """
    if meta[:1] != bytes([_LAYOUT]) or len(meta) < _META.size:
        raise FreshetError(
            "partition state of another layout",
            detail=f"It has layout {meta[:1]!r} and {len(meta)} bytes, this build reads {_LAYOUT}.",
            hint="restore with the revision that wrote it, or replay the log into new topics",
        )
    _, partition, num_partitions, *numbers = _META.unpack_from(meta)
    if (partition, num_partitions) != place:
        raise FreshetError(
            "partition state does not fit",
            detail=f"It is of partition {partition} of {num_partitions}, the job of {place[0]} of "
            f"{place[1]}.",
            hint="the partition count is part of the semantics: replay into new topics",
        )
    clock_ms, next_offset, num_users, *counts = numbers
    return (clock_ms, next_offset, num_users), tuple(counts), meta[_META.size :]
