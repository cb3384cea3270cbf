"""`python -m features`: the features job as a service; under `flink run -py`, handed to a cluster."""

from __future__ import annotations

import os

from features.service import run_job, submit_job
from features.settings import FeaturesSettings
from ingest.runtime.logs import set_up_logging
from ingest.runtime.service import StopSignal, run
from ingest.runtime.settings import read_settings


def main() -> None:
    """Read the settings and run the job until SIGTERM; `flink run` only wants it handed over."""
    settings = read_settings(FeaturesSettings)
    log = set_up_logging("features", settings.log_level)
    # Flink's client starts the JVM before us, and names its door by this variable.
    if "PYFLINK_GATEWAY_PORT" in os.environ:
        submit_job(settings, log)
    else:
        run_job(settings, StopSignal().install(), log)


if __name__ == "__main__":
    run(main)
