"""A slice of `make fuzz`, and that the fuzzer sees what it looks for."""

from __future__ import annotations

import pytest

from ingest.events import InvalidEvent
from tests.ingest import fuzz
from tests.ingest.mutations import mutated, seeds


def test_every_broken_record_is_read_or_refused_with_a_reason() -> None:
    account = fuzz.fuzz_parser(20_000, seed=7)
    assert account.failures == []
    assert set(account.went) == fuzz.REASONS | {"event", "heartbeat"}


def test_every_broken_record_of_a_partition_is_accounted_for() -> None:
    account = fuzz.fuzz_assembler(5_000, seed=7)
    assert account.failures == []
    assert min(account.went[name] for name in ("targets", "duplicates", "late", "dead")) > 20


def test_a_seed_gives_the_same_records_again() -> None:
    good = seeds(100)
    first, again, other = (list(mutated(good, 500, seed)) for seed in (3, 3, 4))
    assert first == again != other


def test_the_fuzzer_sees_an_error_that_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(raw: bytes) -> None:
        raise KeyError("a") if b"watch" in raw else InvalidEvent("odd", "")

    monkeypatch.setattr(fuzz, "decode_record", stumble)
    failures = fuzz.fuzz_parser(200, seed=1).failures
    assert any("KeyError" in failure for failure in failures)
    assert any("reason odd" in failure for failure in failures)
    assert "accounted for" in failures[-1]


def test_the_fuzzer_sees_a_record_that_vanished(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fuzz.assemble
    monkeypatch.setattr(
        fuzz, "assemble", lambda config, at, of, log: whole(config, at, of, log[1:])
    )
    assert "accounted for" in fuzz.fuzz_assembler(300, seed=1).failures[0]
