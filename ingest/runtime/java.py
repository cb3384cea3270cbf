"""Where Java is: both Kafka's broker and Flink run on it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ingest.runtime.errors import ConfigError


def find_java() -> str:
    """Path of the `java` command: that of JAVA_HOME where it is set, else the one on the PATH.

    Raises:
        ConfigError: there is none.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which(str(Path(home) / "bin" / "java") if home else "java")
    if found is None:
        raise ConfigError(
            "java not found",
            detail=f"JAVA_HOME is {home!r}." if home else "No java is on the PATH.",
            hint="install Java 17 (Debian: apt-get install openjdk-17-jre-headless)",
        )
    return found
