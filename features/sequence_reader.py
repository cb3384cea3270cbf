"""How the `sequences` topic is read: each message checked, then many of them as columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.sequences import (
    CONTEXT_BIT,
    CORRECTION_STRUCT,
    HEADER,
    HEADER_STRUCT,
    TOKEN,
    CorruptSequence,
    Kind,
    message_kind,
)

# Of a target that was none before, every bit is news.
ALL_BITS = 2**32 - 1


def check_message(value: bytes, partition: int) -> Kind:
    """What a message is, after all checks: those of `message_kind`, its place, its ids and bits.

    Args:
        value: the message.
        partition: the partition of `sequences` it lies in.

    Raises:
        CorruptSequence: unknown schema, wrong kind or length, another partition's, a negative id, a
            context token that is none or is a target, or changed bits the token does not have.
    """
    kind = message_kind(value)
    _, _, named, _, user_id, *_, num_tokens, num_targets = HEADER_STRUCT.unpack_from(value)
    if named != partition:
        raise CorruptSequence(
            "sequence message in another partition",
            detail=f"It says {named} and lies in {partition}.",
        )
    if kind is Kind.PROGRESS:
        return kind
    tokens = np.frombuffer(value, TOKEN, num_tokens, HEADER.itemsize)
    check_tokens(user_id, tokens, num_targets)
    if kind is Kind.CORRECTION:
        _, changed = CORRECTION_STRUCT.unpack_from(value, len(value) - CORRECTION_STRUCT.size)
        actions = int(tokens["actions"][-1])
        if changed & ~actions:
            raise CorruptSequence(
                "correction of bits the token lacks",
                detail=f"Changed {changed:#x}, the token has {actions:#x}.",
            )
    return kind


def check_tokens(user_id: int, tokens: npt.NDArray[np.void], num_targets: int) -> None:
    """Check the ids and context tokens of TOKEN[T], the last `num_targets` being targets.

    Raises:
        CorruptSequence: a negative user or item, or a context token that is none or is a target.
    """
    items, actions = tokens["item_id"], tokens["actions"]
    some_context = np.bitwise_or.reduce(actions) & CONTEXT_BIT
    if user_id >= 0 and not some_context and items.min(initial=0) >= 0:
        return  # most messages: two passes and nothing in between
    is_context = actions & CONTEXT_BIT != 0
    negative = (items < 0) & ~is_context
    if user_id < 0 or bool(negative.any()):
        raise CorruptSequence(
            "negative id in a sequence",
            detail=f"User {user_id}, items {items[negative][:3]}.",
        )
    contexts = np.flatnonzero(is_context)
    if len(contexts) and (
        contexts[-1] >= len(tokens) - num_targets
        or bool((actions[contexts] != CONTEXT_BIT).any())
        or bool((items[contexts] >= -1).any())
    ):
        raise CorruptSequence(
            "context token out of place",
            detail=f"Rows {contexts[-3:]} of {len(tokens)}, {num_targets} of them targets; it is "
            "never a target, has no other bit and an id below -1.",
        )


@dataclass(frozen=True, kw_only=True)
class SequenceColumns:
    """B targets messages and corrections as columns; a correction has one target.

    Shapes: `user_ids`, `num_targets`, `lifetime_tokens` int64[B]; `offsets` int64[B+1] over `tokens`
    TOKEN[T]; `changed` uint32[M], which bits of a target are news: ALL_BITS but in corrections.
    """

    user_ids: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    num_targets: npt.NDArray[np.int64]
    lifetime_tokens: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.void]
    changed: npt.NDArray[np.uint32]

    @classmethod
    def of_user(
        cls, user_id: int, tokens: npt.NDArray[np.void], *, num_targets: int
    ) -> SequenceColumns:
        """One user's tokens, TOKEN[T], the last `num_targets` as targets: what serving asks."""
        return cls(
            user_ids=np.array([user_id]),
            offsets=np.array([0, len(tokens)]),
            num_targets=np.array([num_targets]),
            lifetime_tokens=np.array([len(tokens) - num_targets]),
            tokens=tokens,
            changed=np.full(num_targets, ALL_BITS, np.uint32),
        )


def decode_columns(values: list[bytes]) -> SequenceColumns:
    """Turn checked messages (see `check_message`) into columns, one copy of the bytes in all."""
    headers = np.frombuffer(b"".join([value[: HEADER.itemsize] for value in values]), HEADER)
    num_tokens = headers["num_tokens"].astype(np.int64)
    num_targets = headers["num_targets"].astype(np.int64)
    ends = HEADER.itemsize + num_tokens * TOKEN.itemsize
    bodies = [
        value[HEADER.itemsize : end] for value, end in zip(values, ends.tolist(), strict=True)
    ]
    changed = np.full(int(num_targets.sum()), ALL_BITS, np.uint32)
    last_target = np.cumsum(num_targets) - 1
    for row in np.flatnonzero(headers["kind"] == Kind.CORRECTION).tolist():
        _, changed[last_target[row]] = CORRECTION_STRUCT.unpack_from(values[row], int(ends[row]))
    return SequenceColumns(
        user_ids=headers["user_id"].astype(np.int64),
        offsets=np.concatenate([[0], np.cumsum(num_tokens)]).astype(np.int64),
        num_targets=num_targets,
        lifetime_tokens=headers["lifetime_tokens"].astype(np.int64),
        tokens=np.frombuffer(b"".join(bodies), TOKEN),
        changed=changed,
    )
