"""`python -m features`: the features job as a service."""

from __future__ import annotations

from features.service import run_job
from features.settings import FeaturesSettings
from ingest.runtime.logs import set_up_logging
from ingest.runtime.service import StopSignal, run
from ingest.runtime.settings import read_settings


def main() -> None:
    """Read the settings and run the job until SIGTERM."""
    settings = read_settings(FeaturesSettings)
    log = set_up_logging("features", settings.log_level)
    run_job(settings, StopSignal().install(), log)


if __name__ == "__main__":
    run(main)
