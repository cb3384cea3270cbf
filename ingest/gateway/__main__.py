"""`python -m ingest.gateway`: take events over HTTP."""

from __future__ import annotations

import uvicorn

from ingest.gateway.admission import IdDictionary
from ingest.gateway.app import create_app
from ingest.gateway.delivery import Delivery
from ingest.gateway.settings import GatewaySettings
from ingest.runtime.logs import set_up_logging
from ingest.runtime.service import StopSignal, run
from ingest.runtime.settings import read_settings


def main() -> None:
    """Run until SIGTERM or SIGINT; requests already taken are answered first."""
    settings = read_settings(GatewaySettings)
    log = set_up_logging("gateway", settings.log_level)
    # uvicorn handles signals while it runs and passes them on when it ends.
    StopSignal().install()
    config = settings.config()
    delivery = Delivery(settings.bootstrap, timeout_seconds=settings.delivery_timeout_seconds)
    ids = IdDictionary(settings.ids_file, settings.max_text_ids) if settings.ids_file else None
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(config, delivery, ids),
            host=settings.host,
            port=settings.port,
            log_level="warning",
            access_log=False,
        )
    )
    log.info("gateway starts", address=f"http://{settings.host}:{settings.port}")
    server.run()
    if ids is not None:
        ids.close()
    log.info("gateway stopped")


if __name__ == "__main__":
    run(main)
