"""What must not stand in any file: other machines' paths, addresses of registries, silenced errors."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.project.sources import listing, name_of, parse, python_files, text_files

MACHINE_PATH = re.compile(r"(?<![\w.}/])/(root|work|Users|home/\w+|opt/wheels)(/|\b)")
REGISTRY = re.compile(
    r"pypi\.org|pythonhosted\.org|repo1?\.maven|maven\.org|deb\.debian\.org|download\.pytorch\.org"
)


def lines_with(pattern: re.Pattern[str], paths: tuple[Path, ...]) -> list[str]:
    return [
        f"{name_of(path)}:{number} {line.strip()[:80]}"
        for path in paths
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_file_names_a_path_of_one_machine() -> None:
    found = lines_with(MACHINE_PATH, text_files())
    assert not found, listing(found)


def test_no_file_names_the_address_of_a_package_registry() -> None:
    found = lines_with(REGISTRY, text_files())
    assert not found, listing(found)


@pytest.mark.parametrize("parts", [["cd ", "root", "x"], ['"', "home", "me"], ["", "work"]])
def test_a_path_of_one_machine_is_recognised(parts: list[str]) -> None:
    assert MACHINE_PATH.search("/".join(parts))


@pytest.mark.parametrize("line", ["build/work/x", "../home/x", "/api/work", "homework", "/workers"])
def test_other_paths_are_left_alone(line: str) -> None:
    assert not MACHINE_PATH.search(line)


def test_code_is_ascii() -> None:
    found = lines_with(re.compile(r"[^\x00-\x7f]"), python_files() + python_files("tests"))
    assert not found, listing(found)


def silent_handlers(tree: ast.Module) -> list[int]:
    """Lines of handlers of everything whose body does nothing."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"})
        and all(isinstance(each, ast.Pass | ast.Continue) for each in node.body)
    ]


def test_no_error_is_silenced() -> None:
    found = [
        f"{name_of(path)}:{line}"
        for path in python_files()
        for line in silent_handlers(parse(path))
    ]
    assert not found, listing(found)


def test_a_silenced_error_is_recognised() -> None:
    source = "try:\n    f()\nexcept Exception:\n    pass\n"
    assert silent_handlers(ast.parse(source)) == [3]
