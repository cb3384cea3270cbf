"""Fixed global batches on any number of ranks; a rank's part is its partitions' messages."""

from __future__ import annotations

import os
from pathlib import Path

from tests.trainer.streams import TASKS, recorded, with_corrections
from trainer.checkpoint import write_checkpoint
from trainer.config import TrainerConfig
from trainer.export import Position
from trainer.model.config import ModelConfig
from trainer.ne_log import NeLog
from trainer.ranks import Ranks, join_ranks, leave_ranks
from trainer.session import Session
from trainer.stream import MessageBatch, read_message

CONFIG = TrainerConfig(
    model=ModelConfig(
        tasks=TASKS, embedding_dim=8, num_layers=1, num_heads=1, qk_dim=8, value_dim=8,
        hidden_dim=16, max_history=16, max_positions=16, attention_divisor=16.0,
    ),
    # Odd, so that the shards differ in size; too small for all items, so that they come and go.
    table_rows=19,
    admit_after=2,
    idle_ttl_ms=1,  # steps, here
    num_negatives=8,
)  # fmt: skip
NUM_STEPS = 12
_PER_STEP = 10


def train_fixed(directory: Path, ranks: Ranks) -> Session:
    """Train the batches; the curve and a last checkpoint lie in `directory`."""
    session = Session(CONFIG, ranks, starts={0: 0, 1: 0}, code_revision="tested")
    session.resume(directory)
    log = NeLog(directory / "ne.jsonl", step=0) if ranks.is_first else None
    messages = [
        message
        for record in with_corrections(recorded(num_messages=NUM_STEPS * _PER_STEP))
        if not (message := read_message(record, max_history=16, arrived_seconds=0.0)).is_progress
    ]
    messages.sort()
    for step in range(NUM_STEPS):
        part = messages[step * _PER_STEP : (step + 1) * _PER_STEP]
        if step % 4 == 1:  # a step that only partition 0 takes part in
            part = [message for message in part if message.partition == 0]
        mine = [m for m in part if m.partition % ranks.world == ranks.rank]
        batch = MessageBatch(
            values=tuple(message.value for message in mine),
            clock_ms=step,
            positions=dict.fromkeys(session.positions, Position(offset=step)),
        )
        line = session.train(batch if mine else None)
        if log is not None:
            log.append(line)
    checkpoint = session.checkpoint()
    if checkpoint is not None:
        write_checkpoint(directory, checkpoint, keep=1)
    return session


def worker(rank: int, world: int, port: int, directory: Path) -> None:
    """One rank's process."""
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    train_fixed(directory, join_ranks())
    leave_ranks()
