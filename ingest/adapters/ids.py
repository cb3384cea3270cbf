"""Text ids become 63-bit integers at the door; what was hashed can be looked up afterwards."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec

from ingest.events import MAX_ID
from ingest.runtime.disk import sync
from ingest.runtime.errors import FreshetError

_MAX_DIGITS = len(str(MAX_ID))


class _Entry(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    id: int
    text: str


class HashedIds:
    """Integer ids for ids of any kind, and a table of those that were hashed.

    A non-negative decimal integer below 2**63 stays itself; any other text (negative numbers and
    leading zeros too) becomes the first 63 bits of its BLAKE2b-64.

    Example:
        >>> ids = HashedIds()
        >>> ids.id_of("42"), ids.id_of("-42")
        (42, 437413216672808048)
    """

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def id_of(self, text: str) -> int:
        """The id for a text.

        Raises:
            FreshetError: two texts share a hash; neither may silently become the other.
        """
        canonical = text.isascii() and text.isdigit() and (text[0] != "0" or text == "0")
        if canonical and len(text) <= _MAX_DIGITS and int(text) <= MAX_ID:
            return int(text)
        raw = text.encode(errors="surrogateescape")
        hashed = int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest()) >> 1
        known = self._texts.setdefault(hashed, text)
        if known != text:
            raise FreshetError(
                "two ids share a hash", detail=f"{known!r} and {text!r} both give {hashed}."
            )
        return hashed

    @classmethod
    def read(cls, path: Path) -> HashedIds:
        """The table a file holds; a last line that a crash cut off is left out.

        Raises:
            FreshetError: a line is no entry, or names an id that is not its text's.
        """
        ids = cls()
        lines = path.read_bytes().split(b"\n")[:-1]
        for number, line in enumerate(lines, 1):
            try:
                entry = msgspec.convert(json.loads(line), _Entry)
            except (ValueError, msgspec.ValidationError) as error:
                raise FreshetError(
                    "table of ids is damaged", detail=f"{path}, line {number}: {error}."
                ) from error
            if ids.id_of(entry.text) != entry.id:
                raise FreshetError(
                    "table of ids is damaged",
                    detail=f"{path}, line {number}: {entry.text!r} does not give {entry.id}.",
                )
        return ids

    def text_of(self, hashed: int) -> str | None:
        """The text an id was made from, as far as it is in the table."""
        return self._texts.get(hashed)

    def forget(self, hashed: int) -> None:
        """Take an id out of the table."""
        del self._texts[hashed]

    def line(self, hashed: int) -> bytes:
        """The line of one id in a file: a JSON object with `id` and the `text` it was made from."""
        # The json module, unlike msgspec, keeps bytes that were no UTF-8 (lone surrogates).
        return json.dumps({"id": hashed, "text": self._texts[hashed]}).encode() + b"\n"

    def write(self, path: Path) -> None:
        """Write the whole table, by id."""
        temporary = path.with_suffix(path.suffix + ".new")
        with temporary.open("wb") as file:
            file.writelines(self.line(hashed) for hashed in sorted(self._texts))
        sync(temporary)
        temporary.replace(path)
