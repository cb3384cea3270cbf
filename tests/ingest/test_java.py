"""Java is that of JAVA_HOME, else the one on the PATH, else an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingest.runtime.errors import ConfigError
from ingest.runtime.java import find_java


def put_java(directory: Path) -> str:
    directory.mkdir(parents=True)
    java = directory / "java"
    java.touch(0o755)
    return str(java)


def test_java_home_comes_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path, at_home = put_java(tmp_path / "path"), put_java(tmp_path / "home" / "bin")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert find_java() == on_path
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert find_java() == at_home


@pytest.mark.parametrize(("home", "said"), [("", "on the PATH"), ("/gone", "JAVA_HOME is '/gone'")])
def test_no_java_is_an_error_that_says_what_to_install(
    home: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("JAVA_HOME", home)
    with pytest.raises(ConfigError, match=f"{said}.*install Java"):
        find_java()
