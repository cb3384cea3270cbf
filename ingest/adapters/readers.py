"""Files of delimited text, JSON lines and Parquet as Arrow tables of bounded size."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple, Protocol, cast

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from ingest.adapters.log import LogError

_BLOCK_BYTES = 16 << 20
_ROWS_PER_TABLE = 1 << 17


class Damage(NamedTuple):
    """A line that could not be read, and why."""

    raw: bytes
    detail: str


OnDamage = Callable[[Damage], None]


class Reader(Protocol):
    """Reads one kind of file."""

    def tables(self, path: Path, on_damage: OnDamage) -> Iterator[pa.Table]:
        """The file's rows, in order; lines that cannot be read go to `on_damage`."""


@dataclass(frozen=True, kw_only=True)
class Delimited:
    """Delimited text, every column as text, an empty one as null; .gz too.

    Args:
        columns: the columns to read; with `header` False, all columns in the order of the file.
        header: whether the first line names the columns.
        delimiter: one character between two columns.
        quoted: whether quotation marks may enclose a column.
    """

    columns: tuple[str, ...]
    header: bool = True
    delimiter: str = ","
    quoted: bool = False

    def tables(self, path: Path, on_damage: OnDamage) -> Iterator[pa.Table]:
        """The file's rows, in order; a line with too many or too few columns goes to `on_damage`."""

        def damaged(row: pa.csv.InvalidRow) -> str:
            detail = f"{row.actual_columns} columns, expected {row.expected_columns}"
            on_damage(Damage(row.text.encode(errors="surrogateescape"), detail))
            return "skip"

        with _opened(path) as file:
            try:
                batches = pa.csv.open_csv(
                    file,
                    pa.csv.ReadOptions(
                        use_threads=False,
                        block_size=_BLOCK_BYTES,
                        column_names=None if self.header else list(self.columns),
                    ),
                    pa.csv.ParseOptions(
                        delimiter=self.delimiter,
                        quote_char='"' if self.quoted else False,
                        invalid_row_handler=damaged,
                    ),
                    pa.csv.ConvertOptions(
                        column_types=dict.fromkeys(self.columns, pa.string()),
                        include_columns=list(self.columns),
                        null_values=[""],
                        strings_can_be_null=True,
                    ),
                )
            except KeyError as error:
                raise wrong_columns(path, error) from error
            for batch in batches:
                yield pa.Table.from_batches([batch])


@dataclass(frozen=True, kw_only=True)
class JsonLines:
    """One JSON object a line; fields outside the schema are not read; .gz too."""

    schema: pa.Schema

    def tables(self, path: Path, on_damage: OnDamage) -> Iterator[pa.Table]:
        """The file's rows, in order; a line that is no such object goes to `on_damage`."""
        with _opened(path) as file:
            for block in _whole_lines(file):
                yield from self._parse(block, on_damage)

    def _parse(self, lines: list[bytes], on_damage: OnDamage) -> Iterator[pa.Table]:
        """All lines at once; where one of them is damaged, halves, down to that one."""
        data = b"\n".join(lines)
        try:
            yield pa.json.read_json(
                io.BytesIO(data),
                pa.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
                pa.json.ParseOptions(
                    explicit_schema=self.schema, unexpected_field_behavior="ignore"
                ),
            )
        except pa.ArrowInvalid as error:
            if len(lines) == 1:
                on_damage(Damage(lines[0], str(error)))
                return
            middle = len(lines) // 2
            yield from self._parse(lines[:middle], on_damage)
            yield from self._parse(lines[middle:], on_damage)


@dataclass(frozen=True, kw_only=True)
class ParquetFile:
    """Parquet; columns that are not named are not read."""

    columns: tuple[str, ...]

    def tables(self, path: Path, on_damage: OnDamage) -> Iterator[pa.Table]:
        """The file's rows, in order."""
        with pq.ParquetFile(path) as file:
            missing = set(self.columns) - set(file.schema_arrow.names)
            if missing:
                raise wrong_columns(path, KeyError(", ".join(sorted(missing))))
            for batch in file.iter_batches(_ROWS_PER_TABLE, columns=list(self.columns)):
                yield pa.Table.from_batches([batch])


def wrong_columns(path: Path, error: KeyError) -> LogError:
    """The error of a file without the columns of its layout."""
    return LogError("log has the wrong columns", detail=f"{path} lacks {error.args[0]}.")


def _opened(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path) if path.suffix == ".gz" else path.open("rb"))


def _whole_lines(file: IO[bytes]) -> Iterator[list[bytes]]:
    rest = b""
    while block := file.read(_BLOCK_BYTES):
        *lines, rest = (rest + block).split(b"\n")
        if lines := [line for line in lines if line.strip()]:
            yield lines
    if rest.strip():
        yield [rest]
