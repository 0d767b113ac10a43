"""A bank's files of one table as batches of checked rows; only one batch is in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import pyarrow as pa

from mlplatform.learning.features.csv_files import CsvFiles
from mlplatform.learning.features.external.columns import ExternalColumns, RowNumbers
from mlplatform.learning.features.external_parts import ExternalParts
from mlplatform.learning.features.input_files import CSV, PARQUET
from mlplatform.learning.features.parquet_files import ParquetFiles
from mlplatform.runtime.errors import InputInvalid

_IN_CSV: Final[Mapping[str, pa.DataType]] = {
    "float64": pa.float64(),
    "int64": pa.int64(),
    "bool": pa.int8(),
    "string": pa.string(),
    "time": pa.timestamp("us"),
}


class StoredRows(NamedTuple):
    """Stored rows of a file, and their numbers in it."""

    rows: pa.RecordBatch
    file: int
    numbers: RowNumbers


class TableSource(Protocol):
    """Rows of a bank's table that are to be imported."""

    @property
    def name(self) -> str:
        """The name of the table in messages."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Names of its files for messages, by their numbers in `StoredRows`."""
        ...

    @property
    def may_be_empty(self) -> bool:
        """Whether it is no mistake if there is no row: those that are there were imported."""
        ...

    def unread(self, columns: ExternalColumns) -> list[str]:
        """The table's columns that the view does not have."""
        ...

    def rows(self, columns: ExternalColumns) -> Iterator[StoredRows]:
        """All rows of the files, in their order.

        Raises:
            InputInvalid: a file or a row is wrong; the message names the file, the first wrong row,
                and what is wanted.
        """
        ...

    def note_read(self, columns: ExternalColumns, parts: ExternalParts) -> None:
        """Note beside a view's parts that they have all rows, if later imports may then read
        less."""
        ...


class PlainFiles:
    """A file, or the files of a folder sorted by name.

    Raises:
        InputInvalid: there is no file, or one of the files has another type.
    """

    may_be_empty = False

    def __init__(self, path: Path) -> None:
        self._paths = _files_at(path)

    @property
    def name(self) -> str:
        return str(self._paths[0])

    @property
    def names(self) -> Sequence[str]:
        return [path.name for path in self._paths]

    def unread(self, columns: ExternalColumns) -> list[str]:
        """The columns of the first file that the view does not have."""
        one = self._paths[:1]
        if one[0].suffix == CSV:
            with CsvFiles(one) as csv:
                types = csv.types(0)
        else:
            with ParquetFiles(one, casts=False) as parquet:
                types = parquet.types(0)
        return [name for name in types if name not in columns.kinds]

    def rows(self, columns: ExternalColumns) -> Iterator[StoredRows]:
        files = self._paths
        for kind, read in ((PARQUET, _parquet), (CSV, _csv)):
            of_kind = [number for number, file in enumerate(files) if file.suffix == kind]
            if of_kind:
                yield from read(columns, files, of_kind)

    def note_read(self, columns: ExternalColumns, parts: ExternalParts) -> None:
        """Do nothing: a file may be written again, so imports read all files."""


def _files_at(path: Path) -> list[Path]:
    if not path.is_dir():
        files = [path]
    else:  # engines write files like `_SUCCESS` beside theirs
        files = sorted(file for file in path.iterdir() if not file.name.startswith((".", "_")))
    if not files:
        raise InputInvalid(
            str(path), None, "there is no file in it; wanted: .parquet or .csv files"
        )
    for file in files:
        if file.suffix not in (PARQUET, CSV) or file.is_dir():
            raise InputInvalid(file.name, None, "it is not a .parquet or .csv file")
        if not file.exists():
            raise InputInvalid(str(file.absolute()), None, "there is no such file")
    return files


def _parquet(
    columns: ExternalColumns, files: Sequence[Path], numbers: Sequence[int]
) -> Iterator[StoredRows]:
    with ParquetFiles([files[number] for number in numbers], casts=False) as parquet:
        for place, number in enumerate(numbers):
            name, first = files[number].name, 0
            wanted = columns.found(parquet.types(place), name)
            for batch in parquet.batches(place, wanted):
                numbers = range(first, first + batch.num_rows)
                yield StoredRows(columns.stored(batch, name, numbers), number, numbers)
                first += batch.num_rows


def _csv(
    columns: ExternalColumns, files: Sequence[Path], numbers: Sequence[int]
) -> Iterator[StoredRows]:
    wanted = {name: _IN_CSV[kind] for name, kind in columns.kinds.items()}
    hidden = [columns.view.join_key] if columns.field.pseudonymous else []
    with CsvFiles([files[number] for number in numbers]) as csv:
        for place, number in enumerate(numbers):
            name, first = files[number].name, 0
            columns.check_names(csv.types(place), name)
            for batch in csv.batches(place, wanted, hidden=hidden):
                if batch.problems:
                    row, problem, *_ = min(batch.problems)
                    raise InputInvalid(name, row, problem)
                numbers = range(first, first + batch.rows.num_rows)
                yield StoredRows(columns.stored(batch.rows, name, numbers), number, numbers)
                first += batch.rows.num_rows
