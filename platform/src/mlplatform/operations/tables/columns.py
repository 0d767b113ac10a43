"""Columns of a table that make a request of a model, and the types accepted for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import pyarrow as pa

from mlplatform.learning.features.columns import (
    INTEGERS,
    TIMES,
    ExpectedColumn,
    match_columns,
    type_problem,
    zoneless,
)
from mlplatform.learning.features.parquet_work import VECTORS
from mlplatform.model.definition import EVENT_TIME, ModelDefinition
from mlplatform.model.folder_code import load_module
from mlplatform.runtime.errors import InputInvalid, NotFound

ROW_ID: Final = "request_id"
_FLOATS: Final = (pa.float64(), pa.float32())
_TEXTS: Final = (pa.string(), pa.large_string())
_FIELDS: Final[Mapping[str, tuple[pa.DataType, ...]]] = {
    "int64": (*INTEGERS, *_FLOATS),  # whole numbers with gaps are written as floats
    "float64": (*_FLOATS, *INTEGERS),
    "string": _TEXTS,
    "bool": (pa.bool_(), *INTEGERS),
    "vector": VECTORS,
}
_OF_TEXT: Final[Mapping[pa.DataType, pa.DataType]] = {
    pa.bool_(): pa.int8(),
    VECTORS[0]: VECTORS[1],  # a number of a vector is rounded once, as in a request
}
"""First accepted type of a column → the type in which its texts are read, if that is another."""


def column_types(definition: ModelDefinition) -> dict[str, tuple[pa.DataType, ...]]:
    """Column → accepted types; text is read as the first of them, but for `_OF_TEXT`."""
    fields = {name: _FIELDS[field.type] for name, field in definition.request.items()}
    return {ROW_ID: (*_TEXTS, *INTEGERS), EVENT_TIME: TIMES, **fields}


def expected_columns(definition: ModelDefinition) -> list[ExpectedColumn]:
    """The columns that a table should have; event times and optional fields may be missing."""
    words = _words_of_history(definition.name)
    return [
        ExpectedColumn(
            name=name,
            kinds=tuple(map(str, kinds)),
            usual=(name,),
            words=words.get(name, frozenset(name.split("_"))),
            meaning="",
            is_needed=name != EVENT_TIME and name not in definition.optional,
        )
        for name, kinds in column_types(definition).items()
    ]


def _words_of_history(model: str) -> Mapping[str, frozenset[str]]:
    """Column → the words by which the `sources.py` of a model's folder recognises it in a history;
    none if there is no such file."""
    try:
        sources = load_module(model, "sources")
    except NotFound:
        return {}
    columns: Iterable[ExpectedColumn] = getattr(sources, "COLUMNS", ())
    return {one.name: one.words for one in columns}


def matched_columns(
    definition: ModelDefinition,
    found: Mapping[str, str],
    overrides: Mapping[str, str],
    source: str,
    *,
    is_text: bool,
) -> dict[str, tuple[str, pa.DataType]]:
    """Column of the request → the table's column and its type.

    Args:
        found: column of the table → its type, as Arrow names it.
        overrides: column of the request → the table's column that a person named for it.
        is_text: whether the cells are texts, which are read as the wanted type whatever `found`
            says.

    Raises:
        ConfigInvalid: `overrides` names a column that no request has.
        InputInvalid: a column is missing (the message proposes one), or has another type.
    """
    kinds = column_types(definition)
    names = match_columns(expected_columns(definition), found, overrides, source)
    columns = {}
    for name, column in names.items():
        kind = next((kind for kind in kinds[name] if str(kind) == zoneless(found[column])), None)
        if is_text:
            kind = _OF_TEXT.get(kinds[name][0], kinds[name][0])
        if kind is None:
            raise InputInvalid(source, None, type_problem(column, found[column], kinds[name]))
        columns[name] = column, kind
    return columns
