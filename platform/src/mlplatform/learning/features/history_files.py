"""A history in Parquet files with the columns of the model, for folders without `sources.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.learning.features.columns import (
    INTEGERS,
    TIMES,
    ExpectedColumn,
    FileCheck,
    match_columns,
)
from mlplatform.learning.features.input_files import PARQUET
from mlplatform.learning.features.parquet_files import ParquetFiles
from mlplatform.learning.features.parquet_work import VECTORS
from mlplatform.learning.features.rows import (
    completed,
    history_schema,
    is_missing,
    known_by,
    matured_times,
    refuse,
    without_nan,
)
from mlplatform.model.definition import ModelDefinition, RequestField
from mlplatform.runtime.errors import InputInvalid

_TAKEN: Final[dict[str, tuple[pa.DataType, ...]]] = {
    "request_id": INTEGERS,
    "event_time": TIMES,
    "label": INTEGERS,
    "label_time": TIMES,
}
_MEANING: Final = {
    "request_id": "the request's own id; no two requests have the same",
    "event_time": "when it was asked for, in UTC; in order, the oldest first",
    "label": "its outcome, 1 or 0; may be missing",
    "label_time": "when that was known, not in the future; without it a 0 is known at the end of "
    "the label's maturity",
}
_LABELS: Final[dict[str, tuple[tuple[pa.DataType, ...], str]]] = {
    "binary": (INTEGERS, _MEANING["label"]),
    "classes": ((pa.string(),), "its class, one of decision.outcomes; may be missing"),
    "real": ((pa.float64(), pa.float32(), *INTEGERS), "its number; may be missing"),
}
"""Task of a model → the accepted types of labels, and their meaning."""
_FIELDS: Final[dict[str, tuple[pa.DataType, ...]]] = {
    "int64": INTEGERS,
    "float64": (pa.float64(), pa.float32(), *INTEGERS),
    "string": (pa.string(),),
    "bool": (pa.bool_(),),
    "vector": VECTORS,
}
_WITH_GAPS: Final = (pa.float64(), pa.float32())
"""Types of whole numbers of which some are missing, as pandas writes them."""


def columns_of(definition: ModelDefinition) -> tuple[ExpectedColumn, ...]:
    """The columns of a history, with the model's own names. A field declared as optional may have
    none."""
    return tuple(
        ExpectedColumn(
            name,
            tuple(map(str, kinds)),
            (name,),
            frozenset(name.split("_")),
            _meanings(definition).get(name, ""),
            is_needed=not (name in definition.request and definition.request[name].optional),
        )
        for name, kinds in _accepted_types(definition).items()
    )


def examine_history(
    path: Path, *, definition: ModelDefinition, now_ms: int | None, columns: Mapping[str, str]
) -> FileCheck:
    """The check of a Parquet file, or of a folder's Parquet files by name, against
    `history_schema`.

    Args:
        now_ms: latest event time and time of a label that a row may have; None if the data is from
            another time than ours.
        columns: column of the history → column of the file, where the names differ.

    Raises:
        InputInvalid: the file or a column is wrong, and the message names it; or for the reason
            given in `columns_of`.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise InputInvalid(str(path.absolute()), None, "there is no Parquet file")
    if files[0].suffix.lower() != PARQUET:
        problem = f"a history of {definition.name} is read from {PARQUET} files: write it as one"
        raise InputInvalid(path.name, None, problem)
    wanted, tables, names = columns_of(definition), list[pa.Table](), list[dict[str, str]]()
    with ParquetFiles(files) as parquet:
        every = {column for number in range(len(files)) for column in parquet.types(number)}
        later = {n for n in definition.declared_optional if columns.get(n) in every}
        for number, file in enumerate(files):
            found = parquet.types(number)
            here = {n: c for n, c in columns.items() if c in found or n not in later}
            names.append(match_columns(wanted, found, here, file.name))
            tables.append(_table(parquet, number, file.name, definition, names[-1]))
        unread = tuple(n for n in parquet.types(0) if n not in names[0].values())
    table = pa.concat_tables(
        [_canonical(t, definition, file.name) for t, file in zip(tables, files, strict=True)]
    )
    if now_ms is not None:
        late = table.column("event_time").cast(pa.int64()).to_numpy() > now_ms * 1000
        refuse(late, str(path), "event_time is in the future", table.column("event_time"))
        known = known_by(table.column("label_time"), "label_time", now_ms)
        refuse(known.wrong, str(path), known.problem, known.values)
    if definition.task == "binary":
        known_times = matured_times(table, definition.label.maturity_days)
        place = table.schema.get_field_index("label_time")
        table = table.set_column(place, "label_time", known_times)
    return FileCheck(table, (), names[0], unread)


def _meanings(definition: ModelDefinition) -> dict[str, str]:
    if definition.task == "binary":
        return _MEANING
    known = "when that was known, not in the future"
    return {**_MEANING, "label": _LABELS[definition.task][1], "label_time": known}


def _accepted_types(definition: ModelDefinition) -> dict[str, tuple[pa.DataType, ...]]:
    fields = {name: _accepted(field) for name, field in definition.request.items()}
    return {**_TAKEN, "label": _LABELS[definition.task][0], **fields}


def _accepted(field: RequestField) -> tuple[pa.DataType, ...]:
    if not field.optional:
        return _FIELDS[field.type]
    gaps = _WITH_GAPS if field.type == "int64" else ()
    return (*_FIELDS[field.type], *gaps)


def _table(
    parquet: ParquetFiles,
    number: int,
    source: str,
    definition: ModelDefinition,
    names: Mapping[str, str],
) -> pa.Table:
    found, wanted = parquet.types(number), {}
    for name, kinds in _accepted_types(definition).items():
        column = names.get(name)
        if column is None:
            continue
        kind = next((kind for kind in kinds if str(kind) == found[column]), None)
        if kind is None:
            problem = f"column {column} is {found[column]}; wanted: {' or '.join(map(str, kinds))}"
            raise InputInvalid(source, None, problem)
        wanted[column] = kind
    table = parquet.read(number, wanted)
    table = table.select([names[name] for name in names]).rename_columns(list(names))
    refuse(is_missing(table.column("request_id")), source, "request_id is missing")
    return table


def _canonical(table: pa.Table, definition: ModelDefinition, source: str) -> pa.Table:
    schema, columns = history_schema(definition), list[Any]()
    table = completed(table, definition)
    for field in schema:
        is_time = pa.types.is_timestamp(field.type)
        try:
            values = without_nan(table.column(field.name))
            columns.append(pc.cast(values, field.type, safe=not is_time))
        except pa.ArrowInvalid as error:
            raise InputInvalid(
                source, None, f"{field.name} is not {field.type}: {error}"
            ) from error
    return pa.table(columns, schema=schema)
