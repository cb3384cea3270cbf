"""Who is shown what in the synthetic world, and with which probability it is clicked.

Users have latent tastes that drift from day to day; items belong to categories, carry a quality,
and are born every day. Users are shown items in sessions.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from ingest.adapters.arrival import Ints
from ingest.adapters.columns import Floats
from ingest.runtime.errors import ConfigError

_NUM_TRAITS = 8
_DAY_MS = 86_400_000
_IMPRESSIONS_PER_SESSION = 8
# Far above synthetic.FOLD_MS: a pair shown again must open a new token, not fold into the old one.
_PAIR_GAP_MS = 10 * 60_000


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """What world to build.

    What follows `num_impressions` makes about 1.8 times as many events. The fractions `malformed`,
    `duplicates` and `late` are of those, on top; with `disorder_ms` events arrive up to that much
    after they happened; `taste` scales the part of the click's log-odds that only the
    user's history can tell, `quality` the part that is the item's own.

    Raises:
        ConfigError: a value cannot work.
    """

    num_impressions: int = 50_000
    seed: int = 1
    num_users: int = 300
    num_items_at_start: int = 150
    num_items_born_a_day: int = 15
    num_days: int = 14
    num_categories: int = 6
    start_ms: int = 1_700_000_000_000
    base_log_odds: float = -1.4
    taste: float = 2.5
    quality: float = 0.4
    drift_a_day: float = 0.02
    malformed: float = 0.0
    duplicates: float = 0.0
    late: float = 0.0
    disorder_ms: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.startswith("num_") and value < 1:
                raise ConfigError(f"{field.name} must be at least 1", detail=f"It is {value}.")
        for name in ("malformed", "duplicates", "late", "drift_a_day"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} must be a fraction", detail=f"It is {value}.")
        if self.seed < 0:
            raise ConfigError("seed must not be negative", detail=f"It is {self.seed}.")
        for name in ("base_log_odds", "taste", "quality"):
            value = getattr(self, name)
            if not math.isfinite(value):
                raise ConfigError(f"{name} must be finite", detail=f"It is {value}.")
        if not 0 <= self.disorder_ms <= 5_000:
            raise ConfigError(
                "disorder_ms must be from 0 to 5000", detail=f"It is {self.disorder_ms}."
            )
        if not 0 <= self.start_ms <= 4_000_000_000_000:
            raise ConfigError("start_ms is outside 1970 to 2096", detail=f"It is {self.start_ms}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """Impressions in time order, one row each."""

    user: Ints
    item: Ints
    time_ms: Ints
    probability: Floats
    clicked: Ints


def show(config: SyntheticConfig, rng: np.random.Generator) -> Shown:
    """Draw a few more impressions than wanted, drop pairs that come again too soon, cut.

    Raises:
        ConfigError: so few users and items that a pair would come again too soon.
    """
    num_sessions = round(config.num_impressions * 1.05 / _IMPRESSIONS_PER_SESSION) + 2
    span_ms = config.num_days * _DAY_MS
    activity = rng.gamma(2.0, size=config.num_users)
    session_user = rng.choice(config.num_users, num_sessions, p=activity / activity.sum())
    opened = rng.integers(0, span_ms, num_sessions)
    gaps = rng.integers(15_000, 45_000, (num_sessions, _IMPRESSIONS_PER_SESSION))
    time_ms = (opened[:, None] + np.cumsum(gaps, axis=1)).ravel()
    user = np.repeat(session_user, _IMPRESSIONS_PER_SESSION)
    order = np.argsort(time_ms, kind="stable")
    user, time_ms = user[order], time_ms[order]
    item, log_odds = _choose_items(config, user, time_ms, rng)
    probability = 1 / (1 + np.exp(-log_odds))
    clicked = (rng.random(len(user)) < probability).astype(np.int64)
    keep = _far_from_its_last(user, item, time_ms)[: config.num_impressions]
    if len(keep) < config.num_impressions:
        raise ConfigError(
            "too few users and items for so many impressions",
            detail=f"{config.num_users} users can be shown {len(keep)} times in "
            f"{config.num_days} days, {config.num_impressions} are wanted.",
        )
    return Shown(
        user=user[keep],
        item=item[keep],
        time_ms=time_ms[keep] + config.start_ms,
        probability=probability[keep],
        clicked=clicked[keep],
    )


def _choose_items(
    config: SyntheticConfig, user: Ints, time_ms: Ints, rng: np.random.Generator
) -> tuple[Ints, Floats]:
    """An item for each impression, younger ones more often, and the log-odds of a click."""
    num_items = config.num_items_at_start + config.num_items_born_a_day * config.num_days
    category = rng.integers(0, config.num_categories, num_items)
    centers = rng.normal(size=(config.num_categories, _NUM_TRAITS))
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    quality = rng.normal(size=num_items)
    born_day = np.repeat(
        np.arange(config.num_days + 1),
        [config.num_items_at_start, *([config.num_items_born_a_day] * config.num_days)],
    )
    taste = rng.normal(size=(config.num_users, _NUM_TRAITS))
    day = np.minimum(time_ms // _DAY_MS, config.num_days - 1)
    item = np.empty(len(user), dtype=np.int64)
    log_odds = np.empty(len(user))
    for today in range(config.num_days):
        rows = np.flatnonzero(day == today)
        # Born on day 0 means "there from the start"; the others appear the day they are born.
        alive = np.flatnonzero(born_day <= today)
        weight = 0.5 ** ((today - born_day[alive]) / 4) + 0.05
        chosen = rng.choice(alive, len(rows), p=weight / weight.sum())
        item[rows] = chosen
        liking = np.einsum("rt,rt->r", taste[user[rows]], centers[category[chosen]])
        log_odds[rows] = config.taste * liking + config.quality * quality[chosen]
        fresh = rng.normal(size=taste.shape)
        kept = 1 - config.drift_a_day
        taste = kept * taste + np.sqrt(1 - kept**2) * fresh
    return item, log_odds + config.base_log_odds


def _far_from_its_last(user: Ints, item: Ints, time_ms: Ints) -> Ints:
    """Rows whose user and item were not shown together shortly before, in time order."""
    order = np.lexsort((time_ms, item, user))
    same = (np.diff(user[order]) == 0) & (np.diff(item[order]) == 0)
    close = np.diff(time_ms[order]) < _PAIR_GAP_MS
    keep = np.ones(len(user), dtype=bool)
    keep[order[1:][same & close]] = False
    return np.flatnonzero(keep)
