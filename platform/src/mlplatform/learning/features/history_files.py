"""A history in Parquet or CSV files with the columns of the model, for folders without
`sources.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlplatform.learning.features.columns import (
    INTEGERS,
    MOST_ALIKE,
    TIMES,
    Check,
    ExpectedColumn,
    FileCheck,
    fields_of_empty_texts,
    kept_refusals,
    match_columns,
    type_problem,
    zoneless,
)
from mlplatform.learning.features.csv_files import CsvFiles
from mlplatform.learning.features.input_files import CSV, CSV_FILES, PARQUET, table_files
from mlplatform.learning.features.parquet_files import ParquetFiles
from mlplatform.learning.features.parquet_work import VECTORS
from mlplatform.learning.features.rows import (
    Column,
    checks_of_presence,
    checks_of_values,
    completed,
    history_schema,
    is_missing,
    known_by,
    refuse,
    within_calendar,
    without_nan,
)
from mlplatform.model.definition import ModelDefinition
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.units import DAY_MS

_FLOATS: Final = (pa.float64(), pa.float32())
_COUNTS: Final = (*INTEGERS, *_FLOATS)
"""Types of whole numbers: where some are missing, pandas writes them as floats."""
REQUEST_IDS: Final[tuple[pa.DataType, ...]] = (pa.string(), *INTEGERS)
_TAKEN: Final[dict[str, tuple[pa.DataType, ...]]] = {
    "request_id": REQUEST_IDS,
    "event_time": TIMES,
    "label": (*_COUNTS, pa.bool_()),
    "label_time": TIMES,
}
_MEANING: Final = {
    "request_id": "the request's own id, a text or whole number; no two requests have the same",
    "event_time": "when it was asked for, in UTC; in order, the oldest first",
    "label": "its outcome, 1 or 0, true or false; may be missing",
    "label_time": "when that was known, not in the future; without it a 0 is known at the end of "
    "the label's maturity",
}
LABEL_KINDS: Final[dict[str, tuple[tuple[pa.DataType, ...], str]]] = {
    "binary": (_TAKEN["label"], _MEANING["label"]),
    "classes": ((pa.string(),), "its class, one of decision.outcomes; may be missing"),
    "real": ((*_FLOATS, *INTEGERS), "its number; may be missing"),
}
"""Task of a model → the accepted types of labels, and their meaning."""
_FIELDS: Final[dict[str, tuple[pa.DataType, ...]]] = {
    "int64": _COUNTS,
    "float64": (*_FLOATS, *INTEGERS),
    "string": (pa.string(),),
    "bool": (pa.bool_(), *INTEGERS),
    "vector": VECTORS,
}
_EXACT: Final = 2.0**53
"""Greatest number up to which a float64 holds every whole number; beyond it, ids would be mixed
up."""
_NOTHING: Final[Any] = 0
_TRUTHS: Final = pa.array([0, 1], pa.int64())
MOST_REFUSALS: Final = 1_000
_DURATION: Final = pa.duration("ms")


def columns_of(definition: ModelDefinition) -> tuple[ExpectedColumn, ...]:
    """The columns of a history, with the model's own names. A field that requests may leave out
    may have none."""
    return tuple(
        ExpectedColumn(
            name,
            tuple(map(str, kinds)),
            (name,),
            frozenset(name.split("_")),
            _meanings(definition).get(name, ""),
            is_needed=name not in definition.optional,
        )
        for name, kinds in _accepted_types(definition).items()
    )


def examine_history(
    path: Path, *, definition: ModelDefinition, now_ms: int | None, columns: Mapping[str, str]
) -> FileCheck:
    """The check of a Parquet or CSV file, or of a folder's files by name, against `history_schema`.

    Args:
        now_ms: latest event time and time of a label that a row may have; None if the data is from
            another time than ours.
        columns: column of the history → column of the file, where the names differ.

    Raises:
        InputInvalid: the file or a column is wrong, and the message names it; or for the reason
            given in `columns_of`.
    """
    files = _files_at(path, definition)
    wanted, names = columns_of(definition), list[dict[str, str]]()
    schema, refusals = history_schema(definition), list[InputInvalid]()
    rows = CheckedRows(schema.empty_table())
    with ExitStack() as until:
        opened = opened_files(files, until)
        every = {column for one in opened for column in one.types}
        later = {n for n in definition.optional if columns.get(n) in every}
        for one in opened:
            here = {n: c for n, c in columns.items() if c in one.types or n not in later}
            names.append(match_columns(wanted, one.types, here, one.name))
            empty = fields_of_empty_texts(definition)
            read, wrong = read_columns(one, names[-1], _accepted_types(definition), empty)
            refusals += wrong
            if not wrong:
                rows.add(one.name, *_typed(completed(read, definition), schema, one.name))
    unread = tuple(n for n in opened[0].types if n not in names[0].values())
    rows.drop(checks_of_presence(rows.table, definition))
    if now_ms is not None:
        rows.note(_of_later(rows.table, definition, now_ms))
    if definition.task == "binary":
        known_times = matured_times(rows.table, definition.label.maturity_days)
        place = schema.get_field_index("label_time")
        rows.table = rows.table.set_column(place, "label_time", known_times)
    rows.note(checks_of_values(rows.table, definition))
    kept, refused = kept_refusals(refusals, MOST_REFUSALS)
    kept = (*kept, *rows.refusals)[:MOST_REFUSALS]
    return FileCheck(rows.table, kept, names[0], unread, {**refused, **rows.refused})


def _of_later(table: pa.Table, definition: ModelDefinition, now_ms: int) -> Iterator[Check]:
    """Checks that nothing is later than now."""
    times, known = table.column("event_time"), table.column("label_time")
    late = times.cast(pa.int64()).to_numpy() > now_ms * 1000
    yield Check(late, "event_time is in the future", times)
    yield known_by(known, "label_time", now_ms, may_be_empty=definition.task == "binary")


def matured_times(table: pa.Table, maturity_days: int) -> Column:
    """The `label_time` of each row; of a label 0 without one, the end of its maturity."""
    zero = pa.array([0], table.schema.field("label").type)
    genuine = pc.is_in(table.column("label"), value_set=zero)
    ends: Any = pc.add(table.column("event_time"), pa.scalar(maturity_days * DAY_MS, _DURATION))
    ends = pc.if_else(genuine, ends, pa.scalar(None, ends.type))
    return pc.coalesce(table.column("label_time"), ends)


def _meanings(definition: ModelDefinition) -> dict[str, str]:
    if definition.task == "binary":
        return _MEANING
    known = "when that was known, not in the future"
    return {**_MEANING, "label": LABEL_KINDS[definition.task][1], "label_time": known}


def _accepted_types(definition: ModelDefinition) -> dict[str, tuple[pa.DataType, ...]]:
    fields = {name: _FIELDS[field.type] for name, field in definition.request.items()}
    return {**_TAKEN, "label": LABEL_KINDS[definition.task][0], **fields}


def _files_at(path: Path, definition: ModelDefinition) -> list[Path]:
    """The file, or the folder's files by name."""
    files = table_files(path) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise InputInvalid(
            str(path.absolute()),
            None,
            "there is nothing to read; wanted: a .parquet or .csv file, or a folder of them",
        )
    if files[0].suffix.lower() not in (PARQUET, *CSV_FILES):
        problem = f"a history of {definition.name} is read from {PARQUET} or {CSV} files"
        raise InputInvalid(path.name, None, problem)
    return files


class CheckedRows:
    """Rows of files in their order, and the refusals so far.

    Args:
        table: a table without rows, of the schema that all files have.

    Attributes:
        table: the rows that are left.
        refusals: the first of each kind in each file, in the order of the checks.
        refused: file and kind of refusal → number of rows.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.refusals: list[InputInvalid] = []
        self.refused: Counter[tuple[str, str]] = Counter()
        self._files: list[str] = []
        self._of = np.zeros(0, np.int64)
        self._numbers = np.zeros(0, np.int64)

    def add(self, name: str, table: pa.Table, checks: Iterable[Check]) -> None:
        """Add a file's rows, without those that its own checks find wrong."""
        count, before = table.num_rows, self.table
        self.table = table
        of, numbers, self._of = self._of, self._numbers, np.full(count, len(self._files))
        self._numbers = np.arange(count)
        self._files.append(name)
        self.drop(checks)
        self.table = pa.concat_tables([before, self.table])
        self._of = np.concatenate([of, self._of])
        self._numbers = np.concatenate([numbers, self._numbers])

    def drop(self, checks: Iterable[Check]) -> None:
        """Note the refusals of these checks, and leave out the rows."""
        wrong = self.note(checks)
        if wrong.any():
            self.table = self.table.filter(pa.array(~wrong))
            self._of, self._numbers = self._of[~wrong], self._numbers[~wrong]

    def note(self, checks: Iterable[Check]) -> NDArray[np.bool_]:
        """Note the refusals of these checks of the rows that are left. Returns which are wrong."""
        every = np.zeros(self.table.num_rows, np.bool_)
        for check in checks:
            every |= check.wrong
            at = np.flatnonzero(check.wrong)
            for file in np.unique(self._of[at]):
                rows = at[self._of[at] == file]
                name = self._files[file]
                kept = max(0, MOST_ALIKE - self.refused[name, check.problem])
                self.refused[name, check.problem] += len(rows)
                for row in map(int, rows[:kept]):
                    self.refusals.append(check.refusal(name, row, int(self._numbers[row])))
        return every


class OpenedFile(NamedTuple):
    """A file: the open group that it is in, its number there, and its columns with their types."""

    name: str
    group: ParquetFiles | CsvFiles
    number: int
    types: Mapping[str, str]


def opened_files(files: Sequence[Path], until: ExitStack) -> list[OpenedFile]:
    """The files in their order, open as long as the context; Parquet files share a process."""
    found = dict[Path, OpenedFile]()
    parquet = [file for file in files if file.suffix.lower() == PARQUET]
    texts = [file for file in files if file not in parquet]
    if parquet:
        whole = until.enter_context(ParquetFiles(parquet))
        for number, file in enumerate(parquet):
            found[file] = OpenedFile(file.name, whole, number, whole.types(number))
    if texts:
        lines = until.enter_context(CsvFiles(texts))
        for number, file in enumerate(texts):
            found[file] = OpenedFile(file.name, lines, number, lines.types(number))
    return [found[file] for file in files]


def read_columns(
    file: OpenedFile,
    names: Mapping[str, str],
    accepted: Mapping[str, Sequence[pa.DataType]],
    empty: Collection[str] = (),
) -> tuple[pa.Table, list[InputInvalid]]:
    """The columns of a file by the names that they have here, and a refusal for each cell of CSV
    that is no value of its column.

    Args:
        names: name here → column of the file.
        accepted: name here → types that the column may have.
        empty: names here of texts in which an empty cell of CSV is an empty text.

    Raises:
        InputInvalid: a column has another type, or the file is damaged.
    """
    wanted, group = dict[str, pa.DataType](), file.group
    for name, kinds in accepted.items():
        column = names.get(name)
        if column is None:
            continue
        looks_like = zoneless(file.types[column])
        kind = next((kind for kind in kinds if str(kind) == looks_like), None)
        if isinstance(group, CsvFiles):
            kind = _of_text(kinds, looks_like)
        if kind is None:
            raise InputInvalid(file.name, None, type_problem(column, file.types[column], kinds))
        wanted[column] = kind
    if isinstance(group, CsvFiles):
        table, wrong = group.read(file.number, wanted, [names[n] for n in empty if n in names])
    else:
        table, wrong = group.read(file.number, wanted), []
    return table.select([names[name] for name in names]).rename_columns(list(names)), wrong


def _of_text(kinds: Sequence[pa.DataType], looks_like: str) -> pa.DataType:
    """The type as which cells of CSV are read, for the accepted types and the one that they look
    like."""
    if kinds == VECTORS:
        return VECTORS[1]  # a number of a vector is rounded once, as in a request
    if kinds[0] == pa.bool_() or (pa.bool_() in kinds and looks_like == "bool"):
        return pa.int8()
    if kinds[0] in INTEGERS and looks_like == "double":
        return pa.float64()
    return kinds[0]


def in_schema(table: pa.Table, schema: pa.Schema, source: str) -> pa.Table:
    """The columns of the schema in its types, null for NaN.

    Raises:
        InputInvalid: a value is none of its column's type; the message names its row.
    """
    found, checks = _typed(table, schema, source)
    for check in checks:
        refuse(check.wrong, source, check.problem, check.values)
    return found


def _typed(table: pa.Table, schema: pa.Schema, source: str) -> tuple[pa.Table, list[Check]]:
    """The columns of the schema in its types, null for NaN and where a check finds a value wrong;
    and the checks.

    Raises:
        InputInvalid: a column has values that its type can't hold.
    """
    columns, every = list[Any](), list[Check]()
    for field in schema:
        name, is_time = field.name, pa.types.is_timestamp(field.type)
        values, checks = without_nan(table.column(name)), list[Check]()
        if pa.types.is_integer(field.type) and pa.types.is_floating(values.type):
            values, checks = whole_numbers(values, name)
        elif field.type == pa.bool_():
            values, checks = truths(values, name)
        elif is_time:
            checks = [within_calendar(values, name)]  # a cast to microseconds may overflow
        every += checks
        if is_time and checks[0].wrong.any():
            there: Any = pa.array(~checks[0].wrong)
            values = pc.if_else(there, values, pa.scalar(None, values.type))
        try:
            columns.append(pc.cast(values, field.type, safe=not is_time))
        except pa.ArrowInvalid as error:
            raise InputInvalid(source, None, f"{name} is not {field.type}: {error}") from error
    return pa.table(columns, schema=schema), every


def whole_numbers(values: Column, name: str) -> tuple[Column, list[Check]]:
    """Whole numbers that may be written as floats, because some are missing, as int64; and a check
    that finds those that are none."""
    if not pa.types.is_floating(values.type):
        return values.cast(pa.int64()), []
    numbers = values.to_numpy(zero_copy_only=False).astype(np.float64)
    with np.errstate(invalid="ignore"):
        broken = (numbers != np.floor(numbers)) | (np.abs(numbers) > _EXACT)
    broken &= ~np.isnan(numbers)
    unsaid = broken | np.isnan(numbers)
    whole = pa.array(np.where(unsaid, 0.0, numbers).astype(np.int64), mask=unsaid)
    check = Check(broken, f"{name} is not a whole number", values)
    return pa.chunked_array([whole]), [check]


def truths(values: Column, name: str) -> tuple[Column, list[Check]]:
    """Truths that may be written as 0 and 1; and a check that finds other numbers."""
    if values.type == pa.bool_():
        return values, []
    whole = values.cast(pa.int64())
    known = pc.is_in(whole, value_set=_TRUTHS).to_numpy()
    missing = is_missing(values)
    numbers = whole.fill_null(_NOTHING).to_numpy()
    check = Check(~known & ~missing, f"{name} is neither 0 nor 1", values)
    return pa.chunked_array([pa.array(numbers == 1, mask=missing)]), [check]
