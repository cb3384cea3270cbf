"""A file fits a reader's head, a function fits a screen, a name says what is inside."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project.sources import listing, name_of, parse, python_files

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
# A kernel is one straight computation: cutting it up would only hide the data flow.
MAX_KERNEL_LINES = 120
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}

FILES = python_files() + python_files("tests")


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def function_limit(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    decorators = {ast.unparse(each).partition("(")[0] for each in function.decorator_list}
    return MAX_KERNEL_LINES if "triton.jit" in decorators else MAX_FUNCTION_LINES


def too_long(path: Path) -> list[str]:
    return [
        f"{name_of(path)}:{each.lineno} {each.name}: {num_lines} lines"
        for each in functions(path)
        if (num_lines := (each.end_lineno or 0) - each.lineno + 1) > function_limit(each)
    ]


def test_the_project_has_files_to_look_at() -> None:
    assert len(FILES) > 20


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in FILES}
    found = [f"{name}: {n} lines" for name, n in lengths.items() if n > MAX_FILE_LINES]
    assert not found, listing(found)


def test_no_function_is_longer_than_a_screen() -> None:
    found = [each for path in FILES for each in too_long(path)]
    assert not found, listing(found)


@pytest.mark.parametrize(("num_lines", "found"), [(50, 0), (51, 1)])
def test_the_limit_on_functions_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_lines: int, found: int
) -> None:
    monkeypatch.setattr("tests.project.sources.ROOT", tmp_path)
    source = tmp_path / "long.py"
    source.write_text("def f():\n" + "    pass\n" * (num_lines - 1))
    assert len(too_long(source)) == found


def test_no_module_has_a_name_that_says_nothing() -> None:
    parts = {name_of(path): {*path.parent.parts, path.stem} for path in FILES}
    found = [name for name, words in parts.items() if words & EMPTY_NAMES]
    assert not found, listing(found)
