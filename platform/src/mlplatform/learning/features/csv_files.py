"""CSV files from outside as columns of plain values, with the cells that hold none."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import pyarrow as pa

from mlplatform.learning.features.input_files import open_files
from mlplatform.learning.features.parquet_work import (
    FULL_COLUMNS,
    MOST_COLUMNS,
    MOST_ROWS,
    VECTOR_BATCH_ROWS,
    VECTORS,
)
from mlplatform.model.tensors.vectors import NotAVector, vector_of_text
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.units import DAY_S, SECOND_US

MOST_ROW: Final = 65_536
"""Most characters of a row. Python's reader reads a row whole, which with quoted cells may be
several lines."""
SAMPLE_ROWS: Final = 1_000
BATCH_ROWS: Final = 65_536
SHOWN: Final = 40
DELIMITERS: Final = (",", ";", "\t", "|")
KINDS: Final = ("int64", "double", "bool", "timestamp[us]", "string")
"""Kinds of columns, narrowest first; a column has the first kind that fits all of its first
rows."""


class CsvProblem(NamedTuple):
    """The error of a row of a file.

    Args:
        is_cut: whether the error concerns the whole line, which then has no cells.
        kind: the text of the error without this row's value.
    """

    row: int
    text: str
    is_cut: bool
    kind: str


class CsvBatch(NamedTuple):
    """A batch of rows; a cell whose text is no value of its column is null."""

    rows: pa.RecordBatch
    problems: list[CsvProblem]


class CsvFiles:
    """A group of CSV files, each with a line of names; to be used as a context.

    Python's own reader splits lines into cells, but does not parse their types. Cells become values
    here.

    Raises:
        InputInvalid: a file is not a plain file or is too large, or there are too many files.
        NotFound: a file can't be read.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._names = [path.name for path in paths]
        self._rows = 0
        with ExitStack() as until:
            self._files = [
                until.enter_context(open(descriptor, "rb", closefd=False))
                for descriptor in open_files(paths, until)
            ]
            self._opened = until.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def types(self, number: int) -> Mapping[str, str]:
        """The columns of a file and the types of their first rows, in Arrow's terms.

        Raises:
            InputInvalid: the file has no line of names, or its text is not UTF-8; the message names
                the file.
        """
        with closing(self._lines(number)) as rows:
            names = self._head(number, rows)
            first = [cells for _, cells in zip(range(SAMPLE_ROWS), rows, strict=False)]
        columns = zip(*(row for row in first if len(row) == len(names)), strict=True)
        kinds = [_kind(column) for column in columns] or ["string"] * len(names)
        return dict(zip(names, kinds, strict=True))

    def read(
        self, number: int, wanted: Mapping[str, pa.DataType], empty: Collection[str] = ()
    ) -> tuple[pa.Table, list[InputInvalid]]:
        """Columns of a file, with null and a refusal for each cell that is no value of its column.

        Args:
            empty: as of `batches`.

        Raises:
            InputInvalid: a row is cut or too long, or there are too many rows.
        """
        schema, batches, refusals = pa.schema(list(wanted.items())), [], list[InputInvalid]()
        for batch in self.batches(number, wanted, empty=empty):
            for row, problem, is_cut, kind in batch.problems:
                refusals.append(InputInvalid(self._names[number], row, problem, kind))
                if is_cut:
                    raise refusals[-1]
            batches.append(batch.rows)
        return pa.Table.from_batches(batches, schema=schema), refusals

    def batches(
        self,
        number: int,
        wanted: Mapping[str, pa.DataType],
        first: int = 0,
        hidden: Collection[str] = (),
        empty: Collection[str] = (),
    ) -> Iterator[CsvBatch]:
        """Columns of a file in batches of rows, from the row `first` on.

        Args:
            hidden: columns whose values must not appear in the text of a problem.
            empty: columns of texts in which an empty cell is an empty text, and not a missing
                value.

        Raises:
            InputInvalid: the file is not CSV, or has too many rows.
        """
        schema = pa.schema(list(wanted.items()))
        with closing(self._lines(number)) as every:
            names = self._head(number, every)
            at = {name: names.index(name) for name in wanted}
            rows = islice(every, first, None)
            many = VECTOR_BATCH_ROWS if set(wanted.values()).intersection(VECTORS) else BATCH_ROWS
            many = min(many, BATCH_ROWS * FULL_COLUMNS // max(FULL_COLUMNS, len(names)))
            while batch := [cells for _, cells in zip(range(many), rows, strict=False)]:
                problems = _cut_rows(batch, len(names), first)
                arrays = []
                for name, kind in wanted.items():
                    texts = [cells[at[name]] for cells in batch]
                    array, wrong = (
                        (pa.array(texts, kind), []) if name in empty else _values(texts, kind)
                    )
                    arrays.append(array)
                    for row, place, shown, wish in wrong:
                        found_value = name if name in hidden else f"{name}{place} is {shown}"
                        text = f"{found_value}; wanted: {wish}"
                        problems.append(CsvProblem(first + row, text, False, f"{name}: {wish}"))
                yield CsvBatch(pa.RecordBatch.from_arrays(arrays, schema=schema), problems)
                first += len(batch)
                self._count(number, len(batch))

    def _count(self, number: int, rows: int) -> None:
        self._rows += rows
        if self._rows > MOST_ROWS:
            problem = f"more than {MOST_ROWS} rows with the files above"
            raise InputInvalid(self._names[number], None, problem)

    def _head(self, number: int, rows: Iterator[list[str]]) -> list[str]:
        names = [name.strip() for name in next(rows, [])]
        if problem := _head_problem(names):
            raise InputInvalid(self._names[number], None, problem)
        return names

    def _lines(self, number: int) -> Generator[list[str], None, None]:
        file = self._files[number]
        file.seek(0)
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        try:
            head = text.readline(MOST_ROW)
            delimiter = max(DELIMITERS, key=head.count)
            text.seek(0)
            lines = _Lines(text, self._names[number])
            for cells in csv.reader(lines, delimiter=delimiter, strict=True):
                lines.of_row = 0
                yield cells
        except UnicodeDecodeError as error:
            raise InputInvalid(
                self._names[number], None, "it is not UTF-8 text; save it as CSV in UTF-8"
            ) from error
        except csv.Error as error:
            raise InputInvalid(self._names[number], None, f"it is not CSV: {error}") from error
        finally:
            if not file.closed:
                text.detach()


def _cut_rows(batch: list[list[str]], count: int, first: int) -> list[CsvProblem]:
    """The rows that have not `count` cells; they have empty ones from now on."""
    problems = list[CsvProblem]()
    for row, cells in enumerate(batch):
        if len(cells) != count:
            problem = f"it has {len(cells)} cells; wanted: {count}, as the first line"
            problems.append(CsvProblem(first + row, problem, True, problem))
            batch[row] = [""] * count
    return problems


def _head_problem(names: Sequence[str]) -> str | None:
    """The problem of a line of names; None if there is none."""
    if len(names) > MOST_COLUMNS:
        return f"{len(names)} columns; the limit is {MOST_COLUMNS}: write only those that are used"
    wanted = "wanted: a first line with a different name for each column"
    if not names:
        return f"it has no first line; {wanted}"
    if not all(names):
        return f"column {names.index('')} of its first line (from 0) has no name; {wanted}"
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    return None if twice is None else f"its first line has {twice[:SHOWN]} twice; {wanted}"


class _Lines:
    """A text's lines. Raises if one row is too long."""

    def __init__(self, text: io.TextIOWrapper, name: str) -> None:
        self._text = text
        self._name = name
        self.of_row = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        if not (line := self._text.readline(MOST_ROW)):
            raise StopIteration
        self.of_row += len(line)
        if self.of_row >= MOST_ROW:
            problem = f"it has a row of more than {MOST_ROW} characters; is a quote not closed?"
            raise InputInvalid(self._name, None, problem)
        return line


def _kind(texts: Sequence[str]) -> str:
    """The kind of a column, by its cells that are not blank."""
    filled = [text for text in texts if text.strip()]
    if not filled:
        return "string"
    fits = (kind for kind in KINDS if all(_is(text, _READERS[kind]) for text in filled))
    return next(fits, "string")


def _is(text: str, read: Callable[[str], object]) -> bool:
    try:
        read(text)
    except (ValueError, OverflowError):
        return False
    return True


def _values(
    texts: Sequence[str], kind: pa.DataType
) -> tuple[pa.Array[Any], list[tuple[int, str, str, str]]]:
    """The values, null where a cell is empty or wrong; and of each wrong cell the row, the place in
    a vector, the text, and the required kind."""
    read = _READERS.get(str(kind), _integer)
    values: list[Any] = []
    wrong = []
    for row, text in enumerate(texts):
        try:
            values.append(read(text) if text.strip() else None)
        except NotAVector as error:
            values.append(None)
            wrong.append((row, error.place, error.shown, error.wanted))
        except (ValueError, OverflowError):
            values.append(None)
            shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
            wrong.append((row, "", repr(shown), _WORDS[read]))
    return pa.array(values, kind), wrong


def _integer(text: str) -> int:
    value = int(text)  # int() also reads " 7 " and "1_000", which are not numbers here
    if "_" in text or not -(2**63) <= value < 2**63:
        raise ValueError(text)
    return value


def _number(text: str) -> float:
    if "_" in text:
        raise ValueError(text)
    return float(text)


def _truth(text: str) -> int:
    truth = {"true": 1, "1": 1, "false": 0, "0": 0}
    if (word := text.strip().lower()) not in truth:
        raise ValueError(text)
    return truth[word]


def _time(text: str) -> int:
    """Microseconds of the epoch; a time without an offset is UTC."""
    moment = datetime.fromisoformat(text.strip())
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    since = moment - _EPOCH
    return (since.days * DAY_S + since.seconds) * SECOND_US + since.microseconds


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_READERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "int64": _integer,
    "double": _number,
    "bool": _truth,
    "int8": _truth,
    "timestamp[us]": _time,
    "string": str,
    str(VECTORS[1]): vector_of_text,
}
_WORDS: Final[Mapping[Callable[[str], Any], str]] = {
    _integer: "a whole number",
    _number: "a number, with a point before its decimals",
    _truth: "0 or 1",
    _time: "a time as 2026-03-01T09:30:00 (UTC), or with an offset",
    str: "a text",
}
