"""The table of all settings of all services, generated from the settings classes themselves."""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from pydantic import AliasChoices, AliasPath
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "deploy" / "SETTINGS.md"
ROOMS = ("ingest", "features", "trainer", "publisher", "deploy")

# Base classes, which no process reads by themselves; their fields appear with those who inherit.
_SHARED = "ingest.runtime.settings"
_HEADER = """# Settings

Every service reads its settings from environment variables, once, when it starts. `make settings` writes this table from
the classes that read them; a test fails where the two differ.

| variable | read by | type | default | meaning |
|---|---|---|---|---|
"""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of the table; `readers` are the packages whose settings have it."""

    variable: str
    readers: tuple[str, ...]
    type_name: str
    default: str
    meaning: str


def find_settings_classes(root: Path = ROOT) -> list[type[BaseSettings]]:
    """The settings classes defined in the `settings.py` modules of the rooms, by module name."""
    paths = [path for room in ROOMS for path in sorted((root / room).rglob("settings.py"))]
    names = [".".join(path.relative_to(root).with_suffix("").parts) for path in paths]
    return [
        each
        for name in names
        if name != _SHARED
        for _, each in inspect.getmembers(importlib.import_module(name), inspect.isclass)
        if issubclass(each, BaseSettings) and each.__module__ == name
    ]


def settings_of(classes: list[type[BaseSettings]]) -> list[Setting]:
    """One row for each environment variable, in alphabetical order.

    Raises:
        ValueError: two classes give one variable different types, defaults or meanings.
    """
    rows: dict[str, Setting] = {}
    for row in (row for each in classes for row in _rows_of(each)):
        known = rows.get(row.variable, row)
        readers = tuple(sorted({*known.readers, *row.readers}))
        if replace(known, readers=readers) != replace(row, readers=readers):
            raise ValueError(f"{row.variable} means two things: {known} and {row}")
        rows[row.variable] = replace(row, readers=readers)
    return [rows[variable] for variable in sorted(rows)]


def _rows_of(settings: type[BaseSettings]) -> Iterator[Setting]:
    for name, field in settings.model_fields.items():
        yield Setting(
            variable=_variable(settings, name, field),
            readers=(settings.__module__.removesuffix(".settings"),),
            type_name=_type_name(field.annotation),
            default=_default(field),
            meaning=field.description or "",
        )


def _variable(settings: type[BaseSettings], name: str, field: FieldInfo) -> str:
    alias: Any = field.validation_alias
    if isinstance(alias, AliasChoices):
        alias = alias.choices[0]
    if isinstance(alias, AliasPath):
        alias = alias.path[0]
    return str(alias or f"{settings.model_config.get('env_prefix', '')}{name}").upper()


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) in (types.UnionType, Union):
        return " or ".join(_type_name(each) for each in get_args(annotation))
    if annotation is types.NoneType:
        return "unset"
    if get_origin(annotation) is not None:
        return str(annotation).replace("typing.", "")
    return getattr(annotation, "__name__", str(annotation))


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "computed"
    if field.default is PydanticUndefined:
        return "required"
    return "unset" if field.default in (None, "") else f"`{field.default}`"


def render(settings: list[Setting]) -> str:
    """The whole of SETTINGS.md."""
    rows = (
        (row.variable, ", ".join(row.readers), row.type_name, row.default, row.meaning)
        for row in settings
    )
    lines = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows)
    return _HEADER + "".join(f"| {line} |\n" for line in lines)


def main() -> None:
    """Rewrite the table."""
    TABLE.write_text(render(settings_of(find_settings_classes())))
    print(f"wrote {TABLE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
