"""README's tree has every Python file, once, with a line about it; its links lead somewhere."""

from __future__ import annotations

import re
from collections import Counter

from tests.project.sources import ROOT, listing, name_of, python_files

README = ROOT / "README.md"
_DRAWING = "\u2502\u251c\u2514\u2500 \t|`+-"


def tree_block(text: str) -> str:
    """The fenced block whose first line is a folder."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    trees = [each for each in blocks if each.partition(" ")[0].partition("\n")[0].endswith("/")]
    assert len(trees) == 1, f"README needs one fenced tree that begins with a folder: {len(trees)}"
    return trees[0]


def tree_entries(block: str) -> dict[str, str]:
    """Path -> description, from a tree drawn by indentation or lines; `freshet/` at the top is the root."""
    folders: list[tuple[int, str]] = []
    entries: Counter[str] = Counter()
    described: dict[str, str] = {}
    for line in filter(str.strip, block.splitlines()):
        body = line.lstrip(_DRAWING)
        depth = len(line) - len(body)
        name, _, description = body.partition(" ")
        while folders and folders[-1][0] >= depth:
            folders.pop()
        path = (folders[-1][1] if folders else "") + name
        if name.endswith("/"):
            folders.append((depth, "" if path == "freshet/" else path))
        entries[path] += 1
        described[path] = description.strip()
    twice = [path for path, count in entries.items() if count > 1]
    assert not twice, "twice in the tree:" + listing(twice)
    return described


def test_a_drawn_tree_is_read() -> None:
    drawn = "freshet/\n\u251c\u2500\u2500 ingest/   the door\n\u2502   \u2514\u2500\u2500 events.py   the contract\n\u2514\u2500\u2500 Makefile  verbs\n"
    plain = "ingest/  the door\n  events.py  the contract\nMakefile  verbs\n"
    expected = {"ingest/": "the door", "ingest/events.py": "the contract", "Makefile": "verbs"}
    assert tree_entries(drawn) == {"freshet/": "", **expected}
    assert tree_entries(plain) == expected


def test_the_tree_has_every_python_file() -> None:
    entries = tree_entries(tree_block(README.read_text()))
    files = {name_of(path) for path in python_files() + python_files("tests")}
    wanted = {name for name in files if not name.endswith("/__init__.py")}
    listed = {path for path in entries if path.endswith(".py")}
    missing, gone = sorted(wanted - listed), sorted(listed - files)
    assert not missing, "not in README's tree:" + listing(missing)
    assert not gone, "in README's tree, but no such file:" + listing(gone)


def test_every_line_of_the_tree_says_what_is_there() -> None:
    entries = tree_entries(tree_block(README.read_text()))
    bare = [path for path, text in entries.items() if not text and path != "freshet/"]
    assert not bare, "nothing said about:" + listing(bare)


def test_every_link_to_a_file_leads_to_one() -> None:
    links = re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", README.read_text())
    dead = [link for link in links if not (ROOT / link).exists()]
    assert not dead, listing(dead)
