"""Text ids become integers once, and can be looked up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ingest.adapters.ids import HashedIds
from ingest.cli import app
from ingest.events import MAX_ID
from ingest.runtime.errors import FreshetError


@given(st.text())
def test_every_text_has_one_id_in_range(text: str) -> None:
    first = HashedIds().id_of(text)
    assert first == HashedIds().id_of(text)
    assert 0 <= first <= MAX_ID


@given(st.integers(0, MAX_ID))
def test_a_plain_number_stays_itself_and_needs_no_table(number: int) -> None:
    ids = HashedIds()
    assert ids.id_of(str(number)) == number
    assert len(ids) == 0


@pytest.mark.parametrize("text", ["-1", "007", str(2**63), "9" * 5_000, "1.0", "", "\u0663"])
def test_what_is_no_plain_number_is_hashed(text: str) -> None:
    ids = HashedIds()
    ids.id_of(text)
    assert len(ids) == 1


def test_the_table_names_what_was_hashed(tmp_path: Path) -> None:
    ids = HashedIds()
    known = {ids.id_of(text): text for text in ("anna", "bert", "-5")}
    ids.write(tmp_path / "ids.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "ids.jsonl").read_text().splitlines()]
    assert {line["id"]: line["text"] for line in lines} == known


def test_a_text_that_is_no_utf8_is_kept_as_the_bytes_it_was(tmp_path: Path) -> None:
    path = tmp_path / "latin.ids.jsonl"
    ids = HashedIds()
    hashed = ids.id_of(b"caf\xe9".decode(errors="surrogateescape"))
    ids.write(path)
    shown = CliRunner().invoke(app, ["ids", "lookup", str(hashed), "--table", str(path)])
    assert (shown.exit_code, shown.stdout_bytes) == (0, b"%d\tcaf\xe9\n" % hashed)


def test_two_texts_of_one_hash_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Same:
        def digest(self) -> bytes:
            return b"12345678"

    monkeypatch.setattr("ingest.adapters.ids.hashlib.blake2b", lambda *_, **__: Same())
    ids = HashedIds()
    ids.id_of("anna")
    with pytest.raises(FreshetError, match="'anna' and 'bert'"):
        ids.id_of("bert")


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    ids = HashedIds()
    anna = ids.id_of("anna")
    ids.write(tmp_path / "shop-1.ids.jsonl")
    monkeypatch.setenv("FRESHET_INGEST_STATE_DIRECTORY", str(tmp_path))
    return anna


def lookup(*arguments: str) -> tuple[int, str]:
    outcome = CliRunner().invoke(app, ["ids", "lookup", *arguments])
    return outcome.exit_code, outcome.output


def test_an_id_is_looked_up_both_ways(table: int) -> None:
    assert lookup("anna") == (0, f"{table}\tanna\n")
    assert lookup(str(table)) == (0, f"{table}\tanna\n")


def test_an_id_nobody_hashed_is_an_error(table: int, tmp_path: Path) -> None:
    code, said = lookup("42")
    assert (code, "no text is known" in said) == (1, True)
    code, said = lookup("42", "--table", str(tmp_path / "gone.jsonl"))
    assert (code, "no such table" in said) == (1, True)


@pytest.mark.parametrize("line", [b"{\n", b'{"id":5,"text":"anna"}\n', b'{"id":5}\n'])
def test_a_damaged_table_is_an_error(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(line)
    code, said = lookup("42", "--table", str(path))
    assert (code, "line 1" in said) == (1, True)
