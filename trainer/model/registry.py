"""Names for interchangeable parts of a model, so that a configuration can choose them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ingest.runtime.errors import ConfigError

Part = TypeVar("Part", bound=type)

_parts: dict[tuple[str, str], type] = {}


def register(kind: str, name: str) -> Callable[[Part], Part]:
    """Class decorator: make a part known under a name.

    Raises:
        ConfigError: the name is taken.
    """

    def enter(part: Part) -> Part:
        if _parts.setdefault((kind, name), part) is not part:
            raise ConfigError("name taken", detail=f"There is a {kind} named {name!r} already.")
        return part

    return enter


def find(kind: str, name: str) -> type:
    """The part registered under a name.

    Raises:
        ConfigError: no such part; the message lists those there are.
    """
    if part := _parts.get((kind, name)):
        return part
    known = sorted(known_name for known_kind, known_name in _parts if known_kind == kind)
    raise ConfigError(f"unknown {kind}", detail=f"{name!r} is none of {known}.")
