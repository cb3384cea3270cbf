"""From what a person types to a log: a data set's name, or the path of a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ingest.adapters import movielens, synthetic
from ingest.adapters.layouts import LAYOUTS
from ingest.adapters.log import EventLog, LogError
from ingest.adapters.parquet import open_parquet
from ingest.adapters.published import open_published
from ingest.adapters.text import open_csv, open_jsonl

_READERS: dict[str, Callable[[Path], EventLog]] = {
    ".parquet": open_parquet,
    ".csv": open_csv,
    ".csv.gz": open_csv,
    ".jsonl": open_jsonl,
    ".jsonl.gz": open_jsonl,
}

DATA_SETS = (movielens.NAME, synthetic.NAME)


def open_log(source: str, cache_directory: Path) -> EventLog:
    """Open `ml-100k`, `synthetic[:NAME=VALUE,...]`, `LAYOUT:PATH` or a .parquet, .csv or .jsonl file.

    Args:
        source: what the person typed.
        cache_directory: where a data set that must be fetched is kept.

    Raises:
        LogError: no such data set or file, or a file that cannot be read.
        ConfigError: a setting of `synthetic` cannot work.
    """
    name, _, settings = source.partition(":")
    if name == synthetic.NAME:
        return synthetic.generate(synthetic_config(settings))[0]
    if name in LAYOUTS:
        return open_published(Path(settings), LAYOUTS[name])
    if source == movielens.NAME:
        return movielens.open_movielens(cache_directory)
    for suffix, read in _READERS.items():
        if source.endswith(suffix):
            return read(Path(source))
    raise LogError(
        "no such data set",
        detail=f"{source!r} is neither a data set nor a file of a known kind.",
        hint=f"data sets: {', '.join(DATA_SETS)}; files: {', '.join(_READERS)}; "
        f"published files: {', '.join(LAYOUTS)}, each followed by :PATH",
    )


def synthetic_config(settings: str) -> synthetic.SyntheticConfig:
    """Read `seed=3,num_impressions=1000`.

    Raises:
        LogError: an unknown setting, or a value that is no number.
        ConfigError: a value cannot work.

    Example:
        >>> synthetic_config("seed=3,late=0.01").late
        0.01
    """
    kinds: dict[str, type[int] | type[float]] = {
        field.name: float if field.type == "float" else int
        for field in dataclasses.fields(synthetic.SyntheticConfig)
    }
    values: dict[str, Any] = {}
    for setting in filter(None, settings.split(",")):
        name, _, text = setting.partition("=")
        if name not in kinds:
            raise LogError(
                "unknown setting of synthetic",
                detail=f"{setting!r}.",
                hint=f"known: {', '.join(kinds)}",
            )
        try:
            values[name] = kinds[name](text)
        except ValueError as error:
            raise LogError("setting is no number", detail=f"{setting!r}.") from error
    return synthetic.SyntheticConfig(**values)
