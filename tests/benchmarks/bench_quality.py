"""Prequential click quality on real impressions against its targets: `make bench-quality`.

The pages of EB-NeRD in time order, one pass through the trainer's session without a broker. A page
is a message: what its user read before is the history, the articles shown are the targets. Every
target is scored before it is learned; the figures are those of the second week.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch

from deploy.demo.quality import stretch
from features.sequences import TOKEN, TOKEN_BITS, encode_targets
from tests.benchmarks.figures import Figure, Report
from tests.features.real_logs import DATA_DIRECTORY
from trainer.config import TrainerConfig
from trainer.export import Position
from trainer.ne_log import StepLine
from trainer.ranks import Ranks, join_ranks, leave_ranks
from trainer.recipes import find_recipe
from trainer.session import Session
from trainer.stream import MessageBatch

IMPRESSIONS = DATA_DIRECTORY / "ebnerd_demo_impressions.parquet"
READS = DATA_DIRECTORY / "ebnerd_demo_events.parquet"
TASK = "click"
NE_TARGET, GAUC_TARGET = 0.945, 0.68
_WEEK_MS = 7 * 24 * 3600 * 1000
_MAX_HISTORY = 64
_TOKEN_BUDGET = 2048
_LONG_WATCH_MS = 30_000

Tokens = npt.NDArray[np.void]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Pages:
    """What was shown, page after page; `starts` int64[P+1] bounds each page's TOKENs in `shown`."""

    users: Ints
    shown: Tokens
    starts: Ints

    @property
    def times_ms(self) -> Ints:
        times: Ints = self.shown["event_time_ms"][self.starts[:-1]]
        return times

    def num_from(self, time_ms: int) -> int:
        """How many targets were shown at a time or later."""
        return int((self.shown["event_time_ms"] >= time_ms).sum())


def read_pages(path: Path) -> Pages:
    """The impressions in time order."""
    table = pq.read_table(path)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    order = np.lexsort((columns["impression_id"], columns["timestamp_ms"]))
    page = columns["impression_id"][order]
    shown = np.zeros(len(page), TOKEN)
    shown["item_id"] = columns["item_id"][order]
    shown["event_time_ms"] = columns["timestamp_ms"][order]
    clicked = columns["label"][order].astype(np.uint32) * TOKEN_BITS["click"]
    shown["actions"] = TOKEN_BITS["impression"] | clicked
    starts = np.flatnonzero(np.append(True, page[1:] != page[:-1]))
    users = columns["user_id"][order][starts].astype(np.int64)
    return Pages(users=users, shown=shown, starts=np.append(starts, len(page)))


def read_histories(path: Path) -> dict[int, Tokens]:
    """Every user's reads in time order."""
    table = pq.read_table(path, filters=[("action", "=", "watch")])
    users = table["user_id"].to_numpy().astype(np.int64)
    reads = np.zeros(len(users), TOKEN)
    reads["item_id"] = table["item_id"].to_numpy().astype(np.int64)
    reads["event_time_ms"] = table["timestamp_ms"].to_numpy()
    reads["watch_ms"] = np.nan_to_num(table["value"].to_numpy()) * 1000
    long_watch = (reads["watch_ms"] >= _LONG_WATCH_MS) * np.uint32(TOKEN_BITS["long_watch"])
    reads["actions"] = TOKEN_BITS["click"] | TOKEN_BITS["watch"] | long_watch
    order = np.lexsort((reads["event_time_ms"], users))
    users, reads = users[order], reads[order]
    bounds = np.flatnonzero(np.append(True, users[1:] != users[:-1]))
    return dict(zip(users[bounds].tolist(), np.split(reads, bounds[1:]), strict=True))


def batches(pages: Pages, histories: dict[int, Tokens], *, split_ms: int) -> Iterator[MessageBatch]:
    """Pages as batches by the token budget; none holds targets of both weeks."""
    values: list[bytes] = []
    num_tokens, clock_ms = 0, 0
    for index, time_ms in enumerate(pages.times_ms.tolist()):
        if values and (num_tokens >= _TOKEN_BUDGET or clock_ms < split_ms <= time_ms):
            yield _batch(values, clock_ms, index)
            values, num_tokens = [], 0
        user_id, clock_ms = int(pages.users[index]), time_ms
        shown = pages.shown[pages.starts[index] : pages.starts[index + 1]]
        reads = histories.get(user_id, np.empty(0, TOKEN))
        reads = reads[: np.searchsorted(reads["event_time_ms"], time_ms)]
        tokens = np.concatenate([reads[-_MAX_HISTORY:], shown])
        num_tokens += len(tokens)
        value = encode_targets(
            partition=0, user_id=user_id, clock_ms=time_ms, first_offset=index, last_offset=index,
            lifetime_tokens=len(reads), tokens=tokens.tobytes(),
            target_offsets=[index] * len(shown),
        )  # fmt: skip
        values.append(value)
    yield _batch(values, clock_ms, len(pages.users))


def _batch(values: list[bytes], clock_ms: int, next_offset: int) -> MessageBatch:
    position = Position(offset=next_offset, clock_ms=clock_ms)
    return MessageBatch(values=tuple(values), clock_ms=clock_ms, positions={0: position})


def configuration(seed: int, num_second_week: int) -> TrainerConfig:
    """tiny_cpu with short histories; the window of scores is the second week."""
    mask, among = TOKEN_BITS["click"], TOKEN_BITS["impression"]
    config = find_recipe("tiny_cpu")(((TASK, mask, among),))
    return replace(
        config, seed=seed, token_budget=_TOKEN_BUDGET, auc_window_targets=num_second_week,
        model=replace(config.model, max_history=_MAX_HISTORY),
    )  # fmt: skip


def measure(
    seed: int, pages: Pages, histories: dict[int, Tokens], ranks: Ranks
) -> dict[str, float]:
    """One pass; the second week's figures."""
    split_ms = int(pages.times_ms[0]) + _WEEK_MS
    config = configuration(seed, pages.num_from(split_ms))
    torch.set_num_threads(config.threads)
    session = Session(config, ranks, starts={0: 0}, code_revision="benchmark")
    started_seconds, lines = time.perf_counter(), list[StepLine]()
    for batch in batches(pages, histories, split_ms=split_ms):
        line = session.train(batch)
        if line.clock_ms >= split_ms:
            lines.append(line)
    sums = stretch(lines, TASK)
    figures = {
        "ne": sums.ne, "baseline_ne": sums.baseline_ne, "calibration": sums.calibration,
        **session.prequential.scores.figures(0),
    }  # fmt: skip
    figures |= {name: v for name, v in lines[-1].tasks[TASK].items() if name.startswith("ne_")}
    known = {name: float(value) for name, value in figures.items() if value is not None}
    return known | {
        "num_targets": sums.num_targets,
        "seconds": time.perf_counter() - started_seconds,
    }


def main() -> int:
    """Measure every seed and give the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="passes, each with its own seed")
    num_seeds = parser.parse_args().seeds
    missing = [str(path) for path in (IMPRESSIONS, READS) if not path.is_file()]
    if missing:
        print(f"MISSED: nothing measured, no {', '.join(missing)}", file=sys.stderr)
        return 1
    pages, histories = read_pages(IMPRESSIONS), read_histories(READS)
    report = Report("quality", data="EB-NeRD demo, one pass, second week")
    ranks, runs = join_ranks(), []
    for seed in range(num_seeds):
        found = measure(seed, pages, histories, ranks)
        note = f"item rate {found['baseline_ne']:.4f}, {found['seconds']:.0f} s"
        name = f"click NE, seed {seed}"
        report.add(
            Figure(name=name, measured=found["ne"], target=NE_TARGET, least=False, note=note)
        )
        note = f"AUC {found['auc_window']:.4f}, calibration {found['calibration']:.3f}"
        name = f"click GAUC, seed {seed}"
        report.add(Figure(name=name, measured=found["gauc_window"], target=GAUC_TARGET, note=note))
        runs.append({"seed": seed, **found})
    leave_ranks()
    return report.close(runs=runs)


if __name__ == "__main__":
    sys.exit(main())
