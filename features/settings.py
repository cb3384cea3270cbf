"""The environment variables of the features job, all of the form FRESHET_FEATURES_*."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from features.config import FeaturesConfig, Impressions
from ingest.runtime.settings import KafkaSettings

_DEFAULTS = FeaturesConfig()


class FeaturesSettings(KafkaSettings):
    """What `python -m features` reads from its environment."""

    model_config = SettingsConfigDict(env_prefix="FRESHET_FEATURES_")

    connector_jar: Path = Field(
        default=Path("build/jars/flink/flink-sql-connector-kafka-5.0.0-2.2.jar"),
        description="Flink's Kafka connector.",
    )
    state_directory: Path = Field(
        default=Path("build/features"),
        description="Directory of the job's checkpoints and logs; a start resumes from it.",
    )
    transactional_id_prefix: str = Field(
        default="freshet-features",
        description="Prefix of the sink's transactions and the consumer group; one per job.",
    )
    parallelism: int = Field(default=1, ge=1, le=128, description="Of every Flink operator.")
    rest_port: int = Field(
        default=0, ge=0, le=65535, description="Flink's REST API on 127.0.0.1; 0 picks a free one."
    )
    metrics_port: int = Field(
        default=9250, ge=1, le=65535, description="Flink's Prometheus reporter, at /metrics."
    )
    state_backend: Literal["hashmap", "rocksdb"] = Field(
        default="hashmap",
        description="Where Flink keeps state: on the heap, or in RocksDB for more than fits there.",
    )
    state_memory_mb: int = Field(
        default=256, ge=32, description="Memory of RocksDB, over all tasks, in MiB."
    )
    heap_mb: int = Field(default=1500, ge=256, description="Maximum heap of Flink's JVM, in MiB.")
    bound_ms: int = Field(
        default=_DEFAULTS.bound_ms, description="How far events may come out of order."
    )
    join_window_ms: int = Field(
        default=_DEFAULTS.join_window_ms,
        description="Events of a user on an item this long after the first are one token.",
    )
    emit_after_ms: int = Field(
        default=_DEFAULTS.emit_after_ms,
        description="A token is emitted this long after its first event, by the partition's clock.",
    )
    max_targets: int = Field(default=_DEFAULTS.max_targets, description="K, targets in a message.")
    max_pending: int = Field(
        default=_DEFAULTS.max_pending, description="Pending events of a user, at most."
    )
    max_history: int = Field(default=_DEFAULTS.max_history, description="N, tokens of history.")
    impressions: Impressions = Field(
        default=_DEFAULTS.impressions,
        description="A token of impressions alone is target and history, a target, or left out.",
    )
    session_gap_ms: int = Field(
        default=_DEFAULTS.session_gap_ms, description="A silence this long begins a new session."
    )
    correction_window_ms: int = Field(
        default=_DEFAULTS.correction_window_ms,
        description="A late event corrects its token up to this long behind the clock; 0: never.",
    )
    attribution_ms: int = Field(
        default=_DEFAULTS.attribution_ms,
        description="A purchase or return corrects a token up to this much older; 0: it is a target.",
    )
    max_amendments: int = Field(
        default=_DEFAULTS.max_amendments,
        description="Corrections of a user that later targets may not see yet, at most.",
    )
    context_features: tuple[str, ...] = Field(
        default=_DEFAULTS.context_features,
        description="Names in an event's context whose changes become tokens, as a JSON list.",
    )
    user_ttl_ms: int = Field(
        default=_DEFAULTS.user_ttl_ms, description="A user silent for this long is forgotten."
    )
    max_users: int = Field(
        default=_DEFAULTS.max_users,
        description="Users of a partition, at most; the longest silent are forgotten.",
    )
    cached_users: int = Field(
        default=_DEFAULTS.cached_users,
        description="Users of a partition kept in memory beside those with pending events.",
    )
    long_watch_ms: int = Field(
        default=_DEFAULTS.long_watch_ms, description="A watch from here on is a long one."
    )
    remembered_ids: int = Field(
        default=_DEFAULTS.remembered_ids,
        description="Newest event ids of a user among which duplicates are recognised.",
    )
    future_bound_ms: int = Field(
        default=_DEFAULTS.future_bound_ms,
        description="An event further past its arrival is a dead letter.",
    )
    micro_batch_seconds: float = Field(
        default=_DEFAULTS.micro_batch_seconds, description="Time Flink gathers records for a batch."
    )
    checkpoint_interval_seconds: float = Field(
        default=_DEFAULTS.checkpoint_interval_seconds, description="Time between two commits."
    )

    def config(self) -> FeaturesConfig:
        """The semantics and the rhythm, checked.

        Raises:
            ConfigError: a value that cannot work.
        """
        return FeaturesConfig(
            **{name: getattr(self, name) for name in FeaturesConfig.__dataclass_fields__}
        )
