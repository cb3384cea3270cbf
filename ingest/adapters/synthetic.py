"""A seeded log whose answers are known: who likes what, and what any model could score at best.

A user is shown items (`impression`, ingest.adapters.world); with a known probability a `click`
follows within seconds, a click is followed by a `watch`, and that sometimes by a `like` and a
`purchase`: all of one user and item within FOLD_MS, so they fold into one token.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from ingest.adapters.arrival import Ints
from ingest.adapters.columns import Floats
from ingest.adapters.faults import FaultCounts, Stream, plant_faults
from ingest.adapters.log import RecordLog
from ingest.adapters.world import Shown, show
from ingest.adapters.world import SyntheticConfig as SyntheticConfig
from ingest.events import Event, encode_record, partition_key

NAME = "synthetic"
FOLD_MS = 55_000
"""Everything that follows an impression comes within this time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SyntheticTruth:
    """What is true of a generated log.

    One row for each impression, in event-time order: `impression_ids`, `probability` of a click
    and whether it was `clicked`. `faults` counts what was planted on top.
    """

    num_records: int
    num_events: int
    num_impressions: int
    num_folded: int
    faults: FaultCounts
    impression_ids: list[str]
    probability: Floats
    clicked: Ints

    def ne_floor(self, last_fraction: float = 1.0) -> float:
        """The lowest normalized entropy of the click task that any model can expect.

        mean H(p) / H(mean p) over the last fraction of impressions, H the binary entropy.
        """
        probability = self.probability[-self._count(last_fraction) :]
        return float(_entropy(probability).mean() / _entropy(probability.mean()))

    def oracle_ne(self, last_fraction: float = 1.0) -> float:
        """Normalized entropy of the true probabilities on the clicks that happened."""
        rows = slice(-self._count(last_fraction), None)
        probability, clicked = self.probability[rows], self.clicked[rows]
        loss = -np.log(np.where(clicked == 1, probability, 1 - probability)).mean()
        return float(loss / _entropy(clicked.mean()))

    def _count(self, last_fraction: float) -> int:
        return max(1, round(self.num_impressions * last_fraction))


def _entropy(probability: Floats) -> Floats:
    p = np.clip(probability, 1e-12, 1 - 1e-12)
    entropy: Floats = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    return entropy


def generate(config: SyntheticConfig) -> tuple[RecordLog, SyntheticTruth]:
    """The log and what is true of it; the same config gives the same bytes.

    Raises:
        ConfigError: so few users and items that a pair would come again too soon.
    """
    rng = np.random.default_rng(config.seed)
    name = f"{NAME}-{config.seed}"
    shown = show(config, rng)
    stream = _happen(name, shown, rng)
    num_events = len(stream.values)
    arrived, faults = plant_faults(
        stream,
        name=name,
        num_malformed=round(num_events * config.malformed),
        num_duplicates=round(num_events * config.duplicates),
        num_late=round(num_events * config.late),
        disorder_ms=config.disorder_ms,
        rng=rng,
    )
    truth = SyntheticTruth(
        num_records=len(arrived.values),
        num_events=num_events,
        num_impressions=config.num_impressions,
        num_folded=num_events - config.num_impressions,
        faults=faults,
        impression_ids=[_event_id(name, row, "impression") for row in range(len(shown.user))],
        probability=shown.probability,
        clicked=shown.clicked,
    )
    settings = ",".join(f"{key}={value}" for key, value in dataclasses.asdict(config).items())
    log = RecordLog(
        name,
        {"source": NAME, "settings": settings},
        keys=[partition_key(user) for user in arrived.users],
        values=arrived.values,
        times_ms=arrived.arrival_ms,
    )
    return log, truth


def _event_id(name: str, impression: int, action: str) -> str:
    return f"{name}-{impression}-{action}"


def _happen(name: str, shown: Shown, rng: np.random.Generator) -> Stream:
    """The impressions and what follows them, encoded, by event time."""
    size = len(shown.user)
    click_ms = shown.time_ms + rng.integers(1_000, 12_000, size)
    watch_ms = np.minimum(rng.gamma(2.0, 6_000 * (0.5 + shown.probability)), 25_000).astype(int)
    watched_ms = click_ms + watch_ms
    like_ms = watched_ms + rng.integers(500, 8_000, size)
    buy_ms = like_ms + rng.integers(500, 8_000, size)
    liked = shown.clicked * (rng.random(size) < 0.25)
    bought = shown.clicked * (rng.random(size) < 0.06)
    price = rng.integers(99, 9_999, size)
    ever = np.ones(size, dtype=np.int64)
    runs = [
        _encoded(name, shown, "impression", ever, shown.time_ms),
        _encoded(name, shown, "click", shown.clicked, click_ms),
        _encoded(name, shown, "watch", shown.clicked, watched_ms, watch_ms=watch_ms),
        _encoded(name, shown, "like", liked, like_ms),
        _encoded(name, shown, "purchase", bought, buy_ms, price_minor=price),
    ]
    users = [user for run in runs for user in run.users]
    values = [value for run in runs for value in run.values]
    time_ms = np.array([at for run in runs for at in run.arrival_ms], dtype=np.int64)
    order = np.argsort(time_ms, kind="stable").tolist()
    return Stream(
        users=[users[n] for n in order],
        values=[values[n] for n in order],
        arrival_ms=[int(time_ms[n]) for n in order],
    )


def _encoded(
    name: str, shown: Shown, action: str, happens: Ints, time_ms: Ints, **extra: Ints
) -> Stream:
    """One action where it happens, with at most one extra field of the event."""
    rows = np.flatnonzero(happens)
    users = shown.user[rows].tolist()
    items = shown.item[rows].tolist()
    times = time_ms[rows].tolist()
    extras = [{key: int(column[row]) for key, column in extra.items()} for row in rows]
    values = [
        encode_record(
            Event(
                event_id=_event_id(name, row, action),
                user_id=user,
                item_id=item,
                action=action,  # type: ignore[arg-type]
                event_time_ms=at,
                **more,  # type: ignore[arg-type]
            )
        )
        for row, user, item, at, more in zip(
            rows.tolist(), users, items, times, extras, strict=True
        )
    ]
    return Stream(users=users, values=values, arrival_ms=times)
