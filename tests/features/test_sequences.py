"""The sequence contract: golden bytes of every version, old readers and new, and what is refused."""

from __future__ import annotations

import contextlib
import struct

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.sequence_reader import ALL_BITS, check_message, decode_columns
from features.sequences import (
    CONTEXT_BIT,
    HEADER,
    SCHEMA,
    SESSION_START_BIT,
    TOKEN,
    TOKEN_BITS,
    Correction,
    CorruptSequence,
    Counters,
    Kind,
    Progress,
    Sequence,
    context_id,
    decode,
    encode_correction,
    encode_progress,
    encode_targets,
    message_kind,
)

# Written by this project's version 1; these bytes lie in topics and never change.
V1_TARGETS = bytes.fromhex(
    "633732386665626201000300000000000700000000000000881300000000000028000000000000002c00000000000000"
    "03000000020000000b00000000000000e803000000000000000000000000000000000000010000001600000000000000"
    "d007000000000000f30100000000000018790000060000012100000000000000b80b0000000000000000000000000000"
    "000000000900000028000000000000002a00000000000000"
)
V1_PROGRESS = bytes.fromhex(
    "63373238666562620000030000000000ffffffffffffffff8813000000000000ffffffffffffffff2c00000000000000"
    "00000000000000000a000000000000000300000000000000000000000000000002000000000000000100000000000000"
    "0100000000000000010000000000000006000000000000000200000000000000"
)
V2_TARGETS = bytes.fromhex(
    "643139643934333201000300040100000700000000000000881300000000000028000000000000002c00000000000000"
    "04000000020000000b00000000000000e8030000000000000000000000000000000000000100000454124e1976c561d6"
    "dc05000000000000000000000000000000000000000000021600000000000000d007000000000000f301000000000000"
    "18790000060000012100000000000000b80b000000000000000000000000000000000000090000002800000000000000"
    "2a00000000000000"
)
V2_CORRECTION = bytes.fromhex(
    "643139643934333202000300040100000700000000000000282300000000000033000000000000003300000000000000"
    "03000000010000000b00000000000000e8030000000000000000000000000000000000000100000454124e1976c561d6"
    "dc05000000000000000000000000000000000000000000021600000000000000d007000000000000f301000000000000"
    "187900002600000133000000000000002000000000000000"
)
V2_PROGRESS = bytes.fromhex(
    "64313964393433320000030000000000ffffffffffffffff8813000000000000ffffffffffffffff2c00000000000000"
    "00000000000000000b000000000000000300000000000000010000000000000002000000000000000100000000000000"
    "01000000000000000100000000000000060000000000000001000000000000000100000000000000"
)
LIKE, CLICK, PURCHASE = TOKEN_BITS["like"], TOKEN_BITS["click"], TOKEN_BITS["purchase"]
CLICKED = (22, 2000, 499, 31000, 6 | TOKEN_BITS["long_watch"])
V1_TOKENS = [(11, 1000, 0, 0, 1), CLICKED, (33, 3000, 0, 0, 9)]
V2_TOKENS = [
    (11, 1000, 0, 0, 1 | SESSION_START_BIT),
    (context_id("country", "DE"), 1500, 0, 0, CONTEXT_BIT),
    CLICKED,
    (33, 3000, 0, 0, 9),
]


def tokens_of(rows: list[tuple[int, ...]]) -> npt.NDArray[np.void]:
    return np.array(rows, TOKEN)


def correction(rows: list[tuple[int, ...]], changed: int) -> bytes:
    return encode_correction(
        partition=3, user_id=7, clock_ms=9000, offset=51, lifetime_tokens=260,
        tokens=tokens_of(rows).tobytes(), changed=changed,
    )  # fmt: skip


def targets(rows: list[tuple[int, ...]], num_targets: int, lifetime_tokens: int = 260) -> bytes:
    return encode_targets(
        partition=3, user_id=7, clock_ms=5000, first_offset=40, last_offset=44,
        lifetime_tokens=lifetime_tokens, tokens=tokens_of(rows).tobytes(),
        target_offsets=[40 + 2 * i for i in range(num_targets)],
    )  # fmt: skip


def read_by_version_1(value: bytes) -> tuple[int, int, bytes]:
    """The reader of version 1, frozen: kind, user and body, or its refusal."""
    schema, kind, _, _, user_id, *_, num_tokens, num_targets = struct.unpack_from(
        "<8sHHIqqqqII", value
    )
    if schema != b"c728febb":
        raise CorruptSequence(
            "unknown sequence schema",
            detail=f"The message has {schema!r}, this build reads c728febb.",
        )
    body = {0: 72, 1: num_tokens * 32 + num_targets * 8}[kind]
    assert len(value) == 56 + body
    return kind, user_id, value[56:]


@pytest.mark.parametrize(
    ("value", "rows", "lifetime_tokens"),
    [(V1_TARGETS, V1_TOKENS, 0), (V2_TARGETS, V2_TOKENS, 260)],
)
def test_targets_of_every_version_are_read(
    value: bytes, rows: list[tuple[int, ...]], lifetime_tokens: int
) -> None:
    assert check_message(value, 3) is Kind.TARGETS
    message = decode(value)
    assert isinstance(message, Sequence)
    assert message.tokens.tolist() == rows
    assert message.target_offsets.tolist() == [40, 42]
    assert message.lifetime_tokens == lifetime_tokens
    assert (message.partition, message.user_id, message.clock_ms) == (3, 7, 5000)
    assert (message.first_offset, message.last_offset) == (40, 44)


@pytest.mark.parametrize(
    ("value", "counters"),
    [
        (V1_PROGRESS, Counters(10, 3, 0, 2, 1, 1, 1, 6, 2, 0)),
        (V2_PROGRESS, Counters(11, 3, 1, 2, 1, 1, 1, 6, 1, 1)),
    ],
)
def test_progress_of_every_version_is_read_and_balances(value: bytes, counters: Counters) -> None:
    assert check_message(value, 3) is Kind.PROGRESS
    assert decode(value) == Progress(partition=3, clock_ms=5000, next_offset=45, counters=counters)
    assert counters.imbalance() == 0


def test_a_correction_is_read() -> None:
    assert check_message(V2_CORRECTION, 3) is Kind.CORRECTION
    message = decode(V2_CORRECTION)
    assert isinstance(message, Correction)
    corrected = (*CLICKED[:4], CLICKED[4] | PURCHASE)
    assert message.tokens.tolist() == [*V2_TOKENS[:2], corrected]
    assert (message.offset, message.changed, message.lifetime_tokens) == (51, PURCHASE, 260)
    assert (message.partition, message.user_id, message.clock_ms) == (3, 7, 9000)


def test_this_build_writes_the_golden_bytes() -> None:
    assert targets(V2_TOKENS, 2) == V2_TARGETS
    corrected = (*CLICKED[:4], CLICKED[4] | PURCHASE)
    assert correction([*V2_TOKENS[:2], corrected], PURCHASE) == V2_CORRECTION
    counters = Counters(11, 3, 1, 2, 1, 1, 1, 6, 1, 1)
    progress = Progress(partition=3, clock_ms=5000, next_offset=45, counters=counters)
    assert encode_progress(progress) == V2_PROGRESS


def test_the_reader_of_version_1_reads_its_own_and_refuses_version_2_by_name() -> None:
    assert read_by_version_1(V1_TARGETS)[:2] == (1, 7)
    assert read_by_version_1(V1_PROGRESS)[:2] == (0, -1)
    for newer in (V2_TARGETS, V2_CORRECTION, V2_PROGRESS):
        with pytest.raises(CorruptSequence, match="unknown sequence schema") as refused:
            read_by_version_1(newer)
        assert SCHEMA.decode() in refused.value.detail


def test_an_unknown_schema_is_refused_by_name_and_says_what_is_read() -> None:
    with pytest.raises(CorruptSequence, match="unknown sequence schema") as refused:
        message_kind(b"cafecafe" + V2_TARGETS[8:])
    assert "cafecafe" in refused.value.detail
    assert "c728febb' (version 1)" in refused.value.detail
    assert f"{SCHEMA.decode()}' (version 2)" in refused.value.detail


def test_a_correction_that_claims_version_1_is_refused() -> None:
    with pytest.raises(CorruptSequence, match="torn"):
        message_kind(V1_TARGETS[:8] + V2_CORRECTION[8:])


@given(
    st.sampled_from([V1_TARGETS, V1_PROGRESS, V2_TARGETS, V2_CORRECTION, V2_PROGRESS]), st.data()
)
def test_every_other_length_is_refused(value: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(value) - 1))
    for torn in (value[:cut], value + b"x"):
        with pytest.raises(CorruptSequence, match=r"torn|short"):
            message_kind(torn)


@given(st.binary(min_size=0, max_size=8), st.integers(8, len(V2_CORRECTION) - 1), st.data())
def test_changed_bytes_are_read_or_refused_and_never_anything_else(
    noise: bytes, at: int, data: st.DataObject
) -> None:
    value = data.draw(st.sampled_from([V1_TARGETS, V2_TARGETS, V2_CORRECTION]))
    changed = (value[:at] + noise + value[at + len(noise) :])[: len(value)]
    with contextlib.suppress(CorruptSequence):
        check_message(changed, 3)
        decode(changed)


def test_lifetime_tokens_stop_at_the_largest_value_of_their_field() -> None:
    message = decode(targets(V1_TOKENS, 1, lifetime_tokens=2**40))
    assert isinstance(message, Sequence)
    assert message.lifetime_tokens == 2**32 - 1


CONTEXT = V2_TOKENS[1]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (targets([*V1_TOKENS, CONTEXT], 1), "context token out of place"),
        (targets([CONTEXT, *V1_TOKENS], 4), "context token out of place"),
        (targets([(-1, *CONTEXT[1:]), *V1_TOKENS], 1), "context token out of place"),
        (
            targets([(*CONTEXT[:4], CONTEXT_BIT | LIKE), *V1_TOKENS], 1),
            "context token out of place",
        ),
        (targets([(5, *CONTEXT[1:]), *V1_TOKENS], 1), "context token out of place"),
        (targets([(-5, 1000, 0, 0, CLICK), *V1_TOKENS], 1), "negative id"),
        (correction([*V1_TOKENS, CONTEXT], 0), "context token out of place"),
        (correction(V1_TOKENS, PURCHASE), "correction of bits the token lacks"),
        (correction(V1_TOKENS, 1 << 40), "correction of bits the token lacks"),
    ],
)
def test_a_message_that_breaks_the_contract_is_refused(value: bytes, reason: str) -> None:
    with pytest.raises(CorruptSequence, match=reason):
        check_message(value, 3)


def test_a_correction_of_watch_time_or_price_changes_no_bit() -> None:
    assert check_message(correction(V1_TOKENS, 0), 3) is Kind.CORRECTION


def test_columns_of_all_versions_and_kinds_together_are_those_of_each() -> None:
    corrected = [*V2_TOKENS[:2], (*CLICKED[:4], CLICKED[4] | PURCHASE)]
    columns = decode_columns([V1_TARGETS, V2_CORRECTION, V2_TARGETS])
    assert columns.user_ids.tolist() == [7, 7, 7]
    assert columns.offsets.tolist() == [0, 3, 6, 10]
    assert columns.num_targets.tolist() == [2, 1, 2]
    assert columns.lifetime_tokens.tolist() == [0, 260, 260]
    assert columns.tokens.tolist() == [*V1_TOKENS, *corrected, *V2_TOKENS]
    assert columns.changed.tolist() == [ALL_BITS, ALL_BITS, PURCHASE, ALL_BITS, ALL_BITS]


def test_context_ids_are_stable_negative_and_told_apart() -> None:
    assert context_id("country", "DE") == -2998898765830679980
    assert context_id("a", "bc") != context_id("ab", "c")
    ids = [context_id("feature", str(value)) for value in range(10_000)]
    assert len(set(ids)) == len(ids)
    assert max(ids) < -1


def test_token_bits_never_overlap() -> None:
    assert len(set(TOKEN_BITS.values())) == len(TOKEN_BITS)
    assert all(bit & (bit - 1) == 0 and bit < 1 << 32 for bit in TOKEN_BITS.values())
    assert HEADER.itemsize == 56
