"""A directory belongs to one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingest.runtime.errors import ConfigError
from ingest.runtime.lock import lock_directory


def test_a_directory_is_held_by_one_and_free_once_it_is_let_go(tmp_path: Path) -> None:
    directory = tmp_path / "made"
    with lock_directory(directory, hint=""):
        with pytest.raises(ConfigError, match="directory in use") as refused:
            lock_directory(directory, hint="stop the other")
        assert refused.value.hint == "stop the other"
    lock_directory(directory, hint="").close()
