"""All metrics of the room, in Flink's own registry: a task may run on any machine of a cluster.

Flink's Prometheus reporter serves them as
`flink_taskmanager_job_task_operator_freshet_partition_<name>{partition="..."}`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from features.sequences import Progress
from features.tally import Tally


class PartitionMetrics:
    """The newest state of one partition, as gauges.

    One gauge for each count of `features.tally.Tally` under its name, counted since the partition's
    first offset (so a restart does not reset them), and `clock_ms`, `next_offset`, `users`;
    `arrival_ms` is when the broker took the newest record that is assembled, which while there is
    traffic tells the delay. What state weighs is Flink's own `lastCheckpointSize`.
    """

    def __init__(self, metric_group: Any, partition: int) -> None:
        self._group = metric_group.add_group("freshet").add_group("partition", str(partition))
        self._gauges: dict[str, Any] = {}

    def show(self, progress: Progress, tally: Tally, num_users: int, arrival_ms: int) -> None:
        """Set every gauge."""
        for name, value in msgspec.structs.asdict(tally).items():
            self._set(name, value)
        self._set("clock_ms", progress.clock_ms)
        self._set("next_offset", progress.next_offset)
        self._set("users", num_users)
        self._set("arrival_ms", arrival_ms)

    def _set(self, name: str, value: int) -> None:
        gauge = self._gauges.get(name)
        if gauge is None:
            # PyFlink's distribution is a gauge of the value last given to it.
            gauge = self._gauges[name] = self._group.distribution(name)
        gauge.update(value)
