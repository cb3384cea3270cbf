"""Logs in the files and columns their publishers gave them, by a description of each layout.

A source row becomes one event or several: KuaiRand says in one row that a video was shown, clicked,
watched and liked. Files are read and turned batch by batch as Arrow columns; no row is looked at
alone unless it is damaged.
"""

from __future__ import annotations

import fnmatch
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.adapters.arrival import Ints
from ingest.adapters.columns import ABSENT, ColumnLog, Columns, join_columns
from ingest.adapters.ids import HashedIds
from ingest.adapters.log import (
    Identity,
    LogError,
    Refusal,
    file_identity,
    file_log_name,
    require_file,
)
from ingest.adapters.readers import Damage, Reader
from ingest.adapters.tables import columns_of, numbers_of, times_ms_of

MAX_ROWS = 200_000_000
"""More events than this are refused: the sorted columns (72 bytes an event) lie in memory."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One kind of event that source rows give. Fields name columns of the source.

    A column of lists gives an event for each element; several such columns go in parallel.

    Args:
        action: the action.
        action_from: instead of `action`: a column that names it.
        vocabulary: the publisher's word in that column -> our action; another word is refused as
            unknown. Without it the words are ours.
        when: only rows where this column is 1.
    """

    item_id: str
    action: str = ""
    action_from: str = ""
    vocabulary: tuple[tuple[str, str], ...] = ()
    when: str = ""
    watch_ms: str = ""
    watch_seconds: str = ""
    duration_ms: str = ""
    rating: str = ""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One kind of file of a data set.

    Args:
        files: patterns of the file's name.
        reader: how its rows are read.
        user_id: column of the user.
        time: column of the event time.
        time_unit: `s`, `ms`, `timestamp` (an Arrow type), or a strptime format; UTC.
        rules: the events in a row, in the order in which they happened.
        derive: makes columns the rules name from those of the file.
    """

    files: tuple[str, ...]
    reader: Reader
    user_id: str
    time: str
    time_unit: str
    rules: tuple[Rule, ...]
    derive: Callable[[pa.Table], pa.Table] | None = None


def open_published(path: Path, sources: tuple[Source, ...]) -> ColumnLog:
    """Open a file, or all files of a directory, that one of the sources describes.

    Raises:
        LogError: no file of such a name, one that cannot be read, wrong columns, no events, or more
            than MAX_ROWS.
    """
    found = [(file, source) for source in sources for file in _files(path, source)]
    if not found:
        raise LogError(
            "no such log",
            detail=f"{path} is or has no file named {_patterns(sources)}.",
            hint="check the path; a directory is not searched below itself",
        )
    ids = HashedIds()
    parts: list[Columns] = []
    num_events = 0
    for part in _all_columns(found, ids):
        parts.append(part)
        num_events += len(part)
        if num_events > MAX_ROWS:
            raise LogError(
                "log is too large to sort in memory",
                detail=f"{path} has more than {MAX_ROWS} events.",
                hint="split it by time and replay the parts in order",
            )
    if not parts:
        raise LogError("log is empty", detail=f"{path} has no events.")
    identity = _identity([file for file, _ in found])
    return ColumnLog(file_log_name(path, identity), identity, join_columns(parts), ids)


def _files(path: Path, source: Source) -> list[Path]:
    candidates = sorted(path.iterdir()) if path.is_dir() else [path]
    return [
        file
        for file in candidates
        if any(fnmatch.fnmatch(file.name, pattern) for pattern in source.files)
    ]


def _patterns(sources: tuple[Source, ...]) -> str:
    return " or ".join(pattern for source in sources for pattern in source.files)


def _identity(files: list[Path]) -> Identity:
    first, *others = map(file_identity, files)
    more = {f"{key}_{at}": value for at, one in enumerate(others, 2) for key, value in one.items()}
    return {**first, **more}


def _all_columns(found: list[tuple[Path, Source]], ids: HashedIds) -> Iterator[Columns]:
    for file, source in found:
        require_file(file)
        try:
            yield from _columns(file, source, ids)
        except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
            raise LogError("log cannot be read", detail=f"{file}: {error}.") from error


def _columns(file: Path, source: Source, ids: HashedIds) -> Iterator[Columns]:
    damages: list[Damage] = []
    last_ms = 0
    for table in source.reader.tables(file, damages.append):
        if len(events := events_of(source, table)):
            part = columns_of(events, ids)
            last_ms = int(part.event_time_ms[-1])
            yield part
    if damages:
        yield _refused(damages, last_ms)


def _refused(damages: list[Damage], time_ms: int) -> Columns:
    """Lines that could not be read, behind the rows of their file."""
    zeros = np.zeros(len(damages), dtype=np.int64)
    absent = zeros + ABSENT
    return Columns(
        user_id=zeros,
        item_id=zeros,
        action=zeros,
        event_time_ms=zeros + time_ms,
        watch_ms=absent,
        duration_ms=absent,
        price_minor=absent,
        rating=np.full(len(damages), np.nan),
        refused={
            row: (Refusal("invalid_field", damage.detail), damage.raw)
            for row, damage in enumerate(damages)
        },
    )


def events_of(source: Source, table: pa.Table) -> pa.Table:
    """The events of a source's rows, in the order of the rows, as `columns_of` takes them.

    Raises:
        LogError: a column is missing, or lists that belong together differ in length.
    """
    if source.derive is not None:
        table = source.derive(table)
    times = table.append_column("timestamp_ms", times_ms_of(table[source.time], source.time_unit))
    applied = [_apply(rule, source, times) for rule in source.rules]
    events = pa.concat_tables([events for events, _ in applied], promote_options="default")
    rows = np.concatenate([rows for _, rows in applied])
    return events.take(np.argsort(rows, kind="stable"))


def _apply(rule: Rule, source: Source, table: pa.Table) -> tuple[pa.Table, Ints]:
    """A rule's events, and the source row of each."""
    wanted = {
        "user_id": source.user_id,
        "item_id": rule.item_id,
        "timestamp_ms": "timestamp_ms",
        "action": rule.action_from,
        "when": rule.when,
        "watch_ms": rule.watch_ms or rule.watch_seconds,
        "duration_ms": rule.duration_ms,
        "rating": rule.rating,
    }
    cells = {name: table[column].combine_chunks() for name, column in wanted.items() if column}
    rows = _spread(cells)
    for name in ("watch_ms", "duration_ms", "rating"):
        if name in cells:
            cells[name] = numbers_of(cells[name])
    if rule.watch_seconds:
        cells["watch_ms"] = pc.multiply(cells["watch_ms"], 1000.0)
    if rule.vocabulary:
        cells["action"] = _renamed(cells["action"], rule.vocabulary)
    if rule.action:
        cells["action"] = pa.array([rule.action]).take(pa.array(np.zeros(len(rows), np.int64)))
    events = pa.table(cells)
    if not rule.when:
        return events, rows
    happened = pc.equal(numbers_of(cells["when"]), 1.0).fill_null(False)
    return events.drop_columns(["when"]).filter(happened), rows[happened.to_numpy(False)]


def _spread(cells: dict[str, pa.Array]) -> Ints:
    """Put the elements of lists in place of the lists; returns the source row of each."""
    lists = [
        name
        for name, column in cells.items()
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    ]
    if not lists:
        return np.arange(len(next(iter(cells.values()))))
    lengths = [pc.list_value_length(cells[name]).fill_null(0).cast(pa.int64()) for name in lists]
    if any(not length.equals(lengths[0]) for length in lengths):
        raise LogError(
            "lists that belong together differ in length", detail=f"Columns for {lists}."
        )
    rows = pc.list_parent_indices(cells[lists[0]])
    for name, column in cells.items():
        cells[name] = pc.list_flatten(column) if name in lists else column.take(rows)
    return np.asarray(rows.to_numpy())


def _renamed(words: pa.Array, vocabulary: tuple[tuple[str, str], ...]) -> pa.Array:
    theirs, ours = zip(*vocabulary, strict=True)
    known = pc.index_in(words, pa.array(theirs))
    # A word of ours that is none of theirs must not pass for known.
    unknown = pc.binary_join_element_wise("unknown:", words, "")
    return pc.coalesce(pa.array(ours).take(known), unknown)
