"""Text ids become 63-bit integers at the door; what was hashed can be looked up afterwards."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from ingest.events import MAX_ID
from ingest.runtime.errors import FreshetError

_MAX_DIGITS = len(str(MAX_ID))


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

    def write(self, path: Path) -> None:
        """Write the table, one JSON object a line: `id` and the `text` it was made from."""
        encode = msgspec.json.Encoder().encode
        temporary = path.with_suffix(path.suffix + ".new")
        with temporary.open("wb") as file:
            for hashed in sorted(self._texts):
                text = self._texts[hashed].encode(errors="replace").decode()
                file.write(encode({"id": hashed, "text": text}) + b"\n")
        temporary.replace(path)
