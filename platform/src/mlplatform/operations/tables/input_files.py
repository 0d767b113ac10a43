"""Parquet and CSV files as blocks of rows, one block for each partition."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

import pyarrow as pa

from mlplatform.learning.features.columns import fields_of_empty_texts
from mlplatform.learning.features.csv_files import CsvBatch, CsvFiles
from mlplatform.learning.features.input_files import CSV, PARQUET
from mlplatform.learning.features.parquet_files import ParquetFiles
from mlplatform.model.definition import ModelDefinition
from mlplatform.operations.tables.conversion import (
    Conversion,
    TableColumns,
    converted,
    table_columns,
)
from mlplatform.runtime.errors import InputInvalid, NotFound
from mlplatform.runtime.units import MIB


@dataclass(frozen=True, slots=True, eq=False)
class RowBlock:
    """The rows of one partition, in the file's order.

    Args:
        first_row: position of its first row in the file, from 0.
        rows: the rows, with the request's column names.
        unread: position in the block → why a cell of that row could not be read.
    """

    number: int
    first_row: int
    rows: pa.Table
    unread: Mapping[int, str]
    is_last: bool


GROUP_FILES: Final = 32
GROUP_BYTES: Final = 64 * MIB
"""Most files that share a confined process, and most bytes of them together: a large file is worth
one of its own, with a processor time of its own."""
_Batch = tuple[pa.Table, Mapping[int, str]]


def is_table(name: str) -> bool:
    """Whether a file of that name is read; names that begin with _ or . belong to programs."""
    last = name.rsplit("/", 1)[-1]
    return last.endswith((PARQUET, CSV)) and not last.startswith(("_", "."))


def check_columns(
    paths: Sequence[Path],
    definition: ModelDefinition,
    overrides: Mapping[str, str],
    conversion: Conversion | None = None,
) -> None:
    """
    Args:
        conversion: what makes requests of tables with other columns.

    Raises:
        ConfigInvalid, InputInvalid: a file is not a table, or does not have the columns of a
            request.
    """
    for suffix, kind in ((PARQUET, ParquetFiles), (CSV, CsvFiles)):
        some = [path for path in paths if path.name.endswith(suffix)]
        if not some:
            continue
        with _opened(kind, some) as files:
            for number, path in enumerate(some):
                found = files.types(number)
                is_text = suffix == CSV
                table_columns(definition, conversion, found, overrides, path.name, is_text=is_text)


class TableFiles:
    """The files of an input, read one after the other; to be used as a context.

    Small Parquet files share a confined process, whose start takes as long as reading a million
    rows.

    Args:
        overrides: column of the request → column of the input, where the names differ.
        rows: largest number of rows in a block.
        conversion: what makes requests of tables with other columns.
    """

    def __init__(
        self,
        definition: ModelDefinition,
        overrides: Mapping[str, str],
        *,
        rows: int,
        conversion: Conversion | None = None,
    ) -> None:
        self._definition, self._overrides, self._rows = definition, overrides, rows
        self._conversion = conversion
        self._paths: Sequence[Path] = ()
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def blocks(
        self, path: Path, name: str, first: int, later: Sequence[Path] = ()
    ) -> Iterator[RowBlock]:
        """Yield the blocks of a file from number `first` on; a file without rows has one empty
        block.

        Args:
            name: the file's name for messages.
            later: files that are read after this one.

        Raises:
            ConfigInvalid, InputInvalid: for the same reasons as in `check_columns`, or because the
                file is damaged or too large.
        """
        rows, definition, start = self._rows, self._definition, first * self._rows
        if path.name.endswith(PARQUET):
            parquet, number = self._parquet(path, later)
            found = parquet.types(number)
            taken = self._columns(found, name, is_text=False)
            columns = taken.columns
            kinds = {column: kind for column, kind in columns.values()}
            batches = (
                (_named(batch, columns), dict[int, str]())
                for batch in parquet.batches(number, kinds, start)
            )
            cut = _cut(batches, _schema(columns), rows, first)
            yield from self._requests(cut, taken, name)
            return
        with CsvFiles([path]) as texts:
            found = texts.types(0)
            taken = self._columns(found, name, is_text=True)
            columns = taken.columns
            hidden = {c for n, (c, _) in columns.items() if _is_hidden(definition, n)}
            texted = () if taken.conversion else fields_of_empty_texts(definition)
            empty = {c for n, (c, _) in columns.items() if n in texted}
            read = texts.batches(0, {c: k for c, k in columns.values()}, start, hidden, empty)
            cut = _cut(_of_csv(read, columns, start), _schema(columns), rows, first)
            yield from self._requests(cut, taken, name)

    def _columns(self, found: Mapping[str, str], name: str, *, is_text: bool) -> TableColumns:
        return table_columns(
            self._definition, self._conversion, found, self._overrides, name, is_text=is_text
        )

    def _requests(
        self, blocks: Iterator[RowBlock], taken: TableColumns, name: str
    ) -> Iterator[RowBlock]:
        for block in blocks:
            if taken.conversion is None:
                yield block
                continue
            rows = converted(taken.conversion, block.rows, self._definition, name)
            yield replace(block, rows=rows)

    def _parquet(self, path: Path, later: Sequence[Path]) -> tuple[ParquetFiles, int]:
        """The file's process, and its number there."""
        if path not in self._paths:
            self._opened.close()
            together = _small_group(path, later)
            try:
                self._files = ParquetFiles(together, rows_of_each=True)
            except (InputInvalid, NotFound):  # a later file is gone: that is said in its turn
                if len(together) == 1:
                    raise
                self._files = ParquetFiles([path], rows_of_each=True)
                together = [path]
            self._paths = together
            self._opened.enter_context(self._files)
        return self._files, self._paths.index(path)


def _small_group(path: Path, later: Sequence[Path]) -> Sequence[Path]:
    """The file, and those after it that are Parquet too, as long as all are small."""
    together, size_bytes = [path], path.stat().st_size
    for one in later[: GROUP_FILES - 1]:
        size_bytes += one.stat().st_size if one.exists() else GROUP_BYTES
        if not one.name.endswith(PARQUET) or size_bytes > GROUP_BYTES:
            break
        together.append(one)
    return together


def blocks(
    path: Path,
    name: str,
    definition: ModelDefinition,
    overrides: Mapping[str, str],
    *,
    rows: int,
    first: int,
) -> Iterator[RowBlock]:
    """Yield the blocks of one file, as `TableFiles.blocks` does."""
    with TableFiles(definition, overrides, rows=rows) as files:
        yield from files.blocks(path, name, first)


def _is_hidden(definition: ModelDefinition, name: str) -> bool:
    """Whether messages may not contain values of the column."""
    return name in definition.request and definition.request[name].pseudonymous


def _opened(
    kind: Callable[[Sequence[Path]], ParquetFiles | CsvFiles], paths: Sequence[Path]
) -> AbstractContextManager[ParquetFiles | CsvFiles]:
    return kind(paths)


def _of_csv(
    batches: Iterator[CsvBatch], columns: Mapping[str, tuple[str, pa.DataType]], start: int
) -> Iterator[_Batch]:
    for rows, problems in batches:
        unread: dict[int, str] = {}
        for row, problem, *_ in problems:
            unread.setdefault(row - start, problem)
        yield _named(rows, columns), unread
        start += rows.num_rows


def _named(batch: pa.RecordBatch, columns: Mapping[str, tuple[str, pa.DataType]]) -> pa.Table:
    return pa.table({name: batch.column(column) for name, (column, _) in columns.items()})


def _schema(columns: Mapping[str, tuple[str, pa.DataType]]) -> pa.Schema:
    return pa.schema([(name, kind) for name, (_, kind) in columns.items()])


def _cut(
    batches: Iterator[_Batch], schema: pa.Schema, rows: int, number: int
) -> Iterator[RowBlock]:
    """Cut batches of any size into blocks of `rows` rows; the last block is marked as such."""
    held: list[pa.Table] = []
    unread: dict[int, str] = {}
    count = 0
    for table, problems in batches:
        unread |= {count + row: problem for row, problem in problems.items()}
        held.append(table)
        count += table.num_rows
        while count > rows:  # more than one: what is left begins the next
            whole = pa.concat_tables(held)
            refused = {row: problem for row, problem in unread.items() if row < rows}
            yield RowBlock(number, number * rows, whole.slice(0, rows), refused, False)
            number, count = number + 1, count - rows
            held = [whole.slice(rows)]
            unread = {r - rows: problem for r, problem in unread.items() if r >= rows}
    last = pa.concat_tables([schema.empty_table(), *held])
    yield RowBlock(number, number * rows, last, unread, True)
