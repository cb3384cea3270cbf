"""A machine that lacks something is told all of it at once, before anything is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.project.sources import ROOT

NEEDED_BY_THE_SCRIPT = ("bash", "env", "head", "sed", "uname")


def run_bootstrap(folder: Path) -> subprocess.CompletedProcess[str]:
    for name in NEEDED_BY_THE_SCRIPT:
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return subprocess.run(
        [ROOT / "deploy" / "bootstrap.sh"],
        env={"PATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_bare_machine_is_told_everything_it_lacks(tmp_path: Path) -> None:
    done = run_bootstrap(tmp_path)
    assert done.returncode == 1
    for missing in ("Python 3.11", "openjdk-17-jre-headless", "maven", "g++"):
        assert missing in done.stderr


def test_this_machine_lacks_nothing() -> None:
    done = subprocess.run(
        [ROOT / "deploy" / "bootstrap.sh"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
