"""Parquet and CSV files as blocks of rows, one block for each partition."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from mlplatform.learning.features.csv_files import CsvFiles
from mlplatform.learning.features.input_files import CSV, PARQUET
from mlplatform.learning.features.parquet_files import ParquetFiles
from mlplatform.model.definition import ModelDefinition
from mlplatform.operations.tables.columns import matched_columns


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


_Batch = tuple[pa.Table, Mapping[int, str]]


def is_table(name: str) -> bool:
    """Whether a file of that name is read; names that begin with _ or . belong to programs."""
    last = name.rsplit("/", 1)[-1]
    return last.endswith((PARQUET, CSV)) and not last.startswith(("_", "."))


def check_columns(
    paths: Sequence[Path], definition: ModelDefinition, overrides: Mapping[str, str]
) -> None:
    """
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
                matched_columns(definition, found, overrides, path.name, is_text=suffix == CSV)


def blocks(
    path: Path,
    name: str,
    definition: ModelDefinition,
    overrides: Mapping[str, str],
    *,
    rows: int,
    first: int,
) -> Iterator[RowBlock]:
    """Yield the blocks of a file from number `first` on; a file without rows has one empty block.

    Raises:
        ConfigInvalid, InputInvalid: for the same reasons as in `check_columns`, or because the file
            is damaged or too large.
    """
    start = first * rows
    if path.name.endswith(PARQUET):
        with ParquetFiles([path]) as parquet:
            columns = matched_columns(definition, parquet.types(0), overrides, name, is_text=False)
            kinds = {column: kind for column, kind in columns.values()}
            batches = (
                (_named(batch, columns), dict[int, str]())
                for batch in parquet.batches(0, kinds, start)
            )
            yield from _cut(batches, _schema(columns), rows, first)
        return
    with CsvFiles([path]) as texts:
        columns = matched_columns(definition, texts.types(0), overrides, name, is_text=True)
        hidden = {c for n, (c, _) in columns.items() if _is_hidden(definition, n)}
        yield from _cut(_of_csv(texts, columns, start, hidden), _schema(columns), rows, first)


def _is_hidden(definition: ModelDefinition, name: str) -> bool:
    """Whether messages may not contain values of the column."""
    return name in definition.request and definition.request[name].pseudonymous


def _opened(
    kind: Callable[[Sequence[Path]], ParquetFiles | CsvFiles], paths: Sequence[Path]
) -> AbstractContextManager[ParquetFiles | CsvFiles]:
    return kind(paths)


def _of_csv(
    files: CsvFiles,
    columns: Mapping[str, tuple[str, pa.DataType]],
    start: int,
    hidden: Collection[str],
) -> Iterator[_Batch]:
    kinds = {column: kind for column, kind in columns.values()}
    for rows, problems in files.batches(0, kinds, start, hidden):
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
