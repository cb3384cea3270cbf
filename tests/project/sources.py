"""The project's own files, for tests about all of them."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("ingest", "features", "kernels", "trainer", "publisher", "deploy")
_GENERATED = ("__pycache__",)
_TEXT = (
    "", ".cfg", ".css", ".html", ".in", ".ini", ".js", ".json", ".md", ".py", ".sh", ".toml", ".txt",
    ".xml", ".yaml", ".yml",
)  # fmt: skip


@cache
def python_files(*folders: str) -> tuple[Path, ...]:
    """Every Python file below the folders; of the rooms where none are named."""
    return tuple(
        path
        for folder in folders or ROOMS
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not set(_GENERATED) & set(path.parts)
    )


@cache
def text_files() -> tuple[Path, ...]:
    """Every text file of the project: the rooms, the tests, CI, and the files at the top."""
    top = [path for path in sorted(ROOT.iterdir()) if path.is_file()]
    below = [
        path
        for folder in (*ROOMS, "tests", ".ci")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.is_file() and not set(_GENERATED) & set(path.parts)
    ]
    return tuple(path for path in (*top, *below) if path.suffix in _TEXT)


@cache
def parse(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(), str(path))


def listing(found: Iterable[object]) -> str:
    """What a failed test shows: every finding on a line, none cut off."""
    return "".join(f"\n  {each}" for each in found)


def name_of(path: Path) -> str:
    """How messages call a file: its path from the top of the project."""
    return path.relative_to(ROOT).as_posix()
