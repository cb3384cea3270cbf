"""`python -m trainer`, or `torchrun --nproc-per-node N -m trainer` for N ranks."""

from __future__ import annotations

from ingest.runtime.kafka import TopicReader, partitions_of
from ingest.runtime.logs import set_up_logging
from ingest.runtime.service import StopSignal, run, serve_metrics
from ingest.runtime.settings import read_settings
from ingest.runtime.topics import SEQUENCES
from trainer.settings import TrainerSettings


def main() -> None:
    """Read the settings, join the ranks, train."""
    settings = read_settings(TrainerSettings)
    log = set_up_logging("trainer", settings.log_level)
    config, run_config = settings.trainer_config(), settings.run_config()
    stop = StopSignal().install()
    partitions = partitions_of(settings.bootstrap, SEQUENCES)
    first = TopicReader(settings.bootstrap, SEQUENCES, dict.fromkeys(partitions, 0))
    starts = first.beginning_offsets()
    first.close()

    # Imported here: torch and torchrec take seconds, and what is wrong above should show at once.
    from trainer.loop import train
    from trainer.ranks import join_ranks, leave_ranks
    from trainer.source import DeadLetters

    ranks = join_ranks(config.device)
    # Every rank has figures of its own; 0 picks a free port for each.
    port = serve_metrics(settings.metrics_port and settings.metrics_port + ranks.rank)
    log.info("metrics_served", rank=ranks.rank, port=port)
    dead_letters = DeadLetters(settings.bootstrap, SEQUENCES)
    try:
        train(
            config,
            run_config,
            ranks=ranks,
            starts=starts,
            open_reader=lambda positions: TopicReader(
                settings.bootstrap, SEQUENCES, {p: at.offset for p, at in positions.items()}
            ),
            graveyard=dead_letters,
            stop=stop,
        )
    finally:
        dead_letters.close()
        leave_ranks()


if __name__ == "__main__":
    run(main)
