"""A team's own way to make requests of a table with other columns: `batch_requests` in its
`sources.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mlplatform.learning.features.columns import (
    ExpectedColumn,
    match_columns,
    type_problem,
    zoneless,
)
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.folder_code import load_module
from mlplatform.model.folders import folder_digest, model_folder
from mlplatform.operations.tables.columns import (
    column_types,
    expected_columns,
    matched_columns,
)
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid, Refused

COLUMNS, FUNCTION = "BATCH_COLUMNS", "batch_requests"


@dataclass(frozen=True, slots=True, eq=False)
class Conversion:
    """The columns that a team's function takes, and the function.

    Args:
        columns: what a table should have; the function gets them by their names here.
        requests: gives one row for each row, in order, with the columns of a request. It gets parts
            of a table, so a row's request depends on that row alone.
        digest: of the model's folder, so that an output is of one function.
    """

    columns: Sequence[ExpectedColumn]
    requests: Callable[[pa.Table], pa.Table]
    digest: str


@dataclass(frozen=True, slots=True, eq=False)
class TableColumns:
    """The columns to read of a table.

    Args:
        columns: name in a request or in the conversion → the table's column and its type.
        conversion: what makes requests of them; None for columns of a request.
    """

    columns: Mapping[str, tuple[str, pa.DataType]]
    conversion: Conversion | None


def conversion_of(model: str) -> Conversion | None:
    """The conversion of a model's folder; None if it has none.

    Raises:
        ConfigInvalid: the folder's Python has one of the two and not the other.
    """
    folder = model_folder(model)
    if not (folder / "sources.py").is_file():
        return None
    sources = load_module(model, "sources")
    columns, function = getattr(sources, COLUMNS, None), getattr(sources, FUNCTION, None)
    if columns is None and function is None:
        return None
    if columns is None or function is None:
        wanted = f"both {COLUMNS} and {FUNCTION}, or neither (docs/batch.md)"
        raise ConfigInvalid("sources.py", COLUMNS if function is None else FUNCTION, wanted)
    return Conversion(tuple(columns), function, folder_digest(folder))


def table_columns(
    definition: ModelDefinition,
    conversion: Conversion | None,
    found: Mapping[str, str],
    overrides: Mapping[str, str],
    source: str,
    *,
    is_text: bool,
) -> TableColumns:
    """The columns of a request if the table has them, else those of the conversion.

    Args:
        found: column of the table → its type, as Arrow names it.
        overrides: wanted column → the table's column that a person named for it.
        is_text: whether the cells are texts.

    Raises:
        ConfigInvalid, InputInvalid: the table has neither; the message is about the columns of
            which it has more.
    """
    try:
        own = matched_columns(definition, found, overrides, source, is_text=is_text)
        return TableColumns(own, None)
    except (ConfigInvalid, InputInvalid):
        if conversion is None or not _is_likelier(conversion, definition, found, overrides):
            raise
    other = _matched(conversion, found, overrides, source, is_text=is_text)
    return TableColumns(other, conversion)


def converted(
    conversion: Conversion, table: pa.Table, definition: ModelDefinition, source: str
) -> pa.Table:
    """The requests of some rows.

    Raises:
        Refused: the team's function fails, or what it gives is no request for each row.
    """
    where = f"{source}: {FUNCTION} of sources.py"
    try:
        requests = conversion.requests(table)
    except Exception as error:  # what a team's Python raises is not known here
        raise Refused(f"{where} failed: {type(error).__name__}: {error}") from error
    if not isinstance(requests, pa.Table) or requests.num_rows != table.num_rows:
        wanted = f"a table of {table.num_rows} rows, one for each row"
        raise Refused(f"{where} gives {_shown(requests)}; wanted: {wanted}")
    kinds = column_types(definition)
    needed = [one.name for one in expected_columns(definition) if one.is_needed]
    if lacking := [name for name in needed if name not in requests.column_names]:
        raise Refused(f"{where} gives no column {lacking[0]}; wanted: {', '.join(needed)}")
    for field in requests.schema:
        if field.name not in kinds:
            raise Refused(f"{where} gives {field.name}, which no request has")
        if field.type not in kinds[field.name]:
            problem = type_problem(field.name, str(field.type), kinds[field.name])
            raise Refused(f"{where} gives another type: {problem}")
    return requests


def _is_likelier(
    conversion: Conversion,
    definition: ModelDefinition,
    found: Mapping[str, str],
    overrides: Mapping[str, str],
) -> bool:
    """Whether the table has more of the conversion's columns than of a request's."""

    def share(wanted: Sequence[ExpectedColumn]) -> float:
        there = [w for w in wanted if w.name in overrides or not found.keys().isdisjoint(w.usual)]
        return len(there) / len(wanted)

    return share(conversion.columns) > share(expected_columns(definition))


def _matched(
    conversion: Conversion,
    found: Mapping[str, str],
    overrides: Mapping[str, str],
    source: str,
    *,
    is_text: bool,
) -> dict[str, tuple[str, pa.DataType]]:
    names = match_columns(conversion.columns, found, overrides, source)
    columns: dict[str, tuple[str, pa.DataType]] = {}
    for one in (w for w in conversion.columns if w.name in names):
        column = names[one.name]
        kind = one.kinds[0] if is_text else zoneless(found[column])
        if kind not in one.kinds:
            raise InputInvalid(source, None, type_problem(column, found[column], one.kinds))
        alias: Any = kind
        columns[one.name] = column, pa.type_for_alias(alias)
    return columns


def _shown(found: object) -> str:
    return f"{found.num_rows} rows" if isinstance(found, pa.Table) else type(found).__name__
