"""`python -m publisher`: publish what the trainer hands over."""

from __future__ import annotations

from ingest.runtime.logs import set_up_logging
from ingest.runtime.service import StopSignal, run, serve_metrics
from ingest.runtime.settings import read_settings
from publisher.announce import Announcer
from publisher.service import Publisher, serve
from publisher.settings import PublisherSettings


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    settings = read_settings(PublisherSettings)
    log = set_up_logging("publisher", settings.log_level)
    stop = StopSignal().install()
    config = settings.config()
    port = serve_metrics(settings.metrics_port, settings.metrics_host)
    announcer = Announcer(settings.bootstrap, config.model_name)
    publisher = Publisher(config, announcer)
    log.info(
        "publisher started", exports=str(config.exports), store=str(config.store), metrics_port=port
    )
    try:
        serve(publisher, stop, poll_seconds=config.poll_seconds)
    finally:
        publisher.close()
        announcer.close()
    log.info("publisher stopped")


if __name__ == "__main__":
    run(main)
