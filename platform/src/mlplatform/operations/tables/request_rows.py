"""Rows of a table as requests of a model, with the checks that applications' requests get."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlplatform.learning.features.columns import Check, value_problem
from mlplatform.learning.features.history_files import truths, whole_numbers
from mlplatform.learning.features.rows import (
    ARROW,
    TIME,
    Column,
    is_missing,
    pseudonyms,
    request_schema,
    within_bounds,
    within_calendar,
    without_nan,
)
from mlplatform.model.definition import EVENT_TIME, ModelDefinition, RequestField
from mlplatform.operations.tables.columns import ROW_ID

_NOTHING: Final[Any] = 0


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """The requests of a block, and the problems of its other rows.

    Args:
        ids: ids of all rows, as texts; null where a row has none.
        good: positions in the block of the rows that are requests.
        table: those rows in the form of `rows.request_schema`, with stored pseudonyms.
        problems: position of each other row → its problem.
    """

    ids: pa.ChunkedArray[Any]
    good: NDArray[np.int64]
    table: pa.Table
    problems: Mapping[int, str]


def requests_of(
    block: pa.Table,
    unread: Mapping[int, str],
    definition: ModelDefinition,
    *,
    as_of_ms: int,
    key: bytes,
) -> Requests:
    """Read the requests of a block, and find the problem of each other row.

    Args:
        block: rows with the request's column names, in types of `columns.column_types`.
        unread: position → why a cell of the row could not be read.
        as_of_ms: latest event time that a row may have, and the event time of all rows if the table
            has no such column.
        key: the secret by which keys become pseudonyms.
    """
    problems = dict(unread)
    is_good = np.ones(block.num_rows, np.bool_)
    is_good[list(unread)] = False
    ids: pa.ChunkedArray[Any] = block.column(ROW_ID).cast(pa.string())
    columns: dict[str, Column] = {}
    checks = [
        *_missing(ids, ROW_ID),
        Check(pc.utf8_length(ids).to_numpy() == 0, f"{ROW_ID} is empty"),
    ]
    times, found = _times(block, as_of_ms)
    checks += found
    for name, field in definition.request.items():
        is_there = name in block.column_names
        cells = block.column(name) if is_there else _nothing(block.num_rows, field)
        columns[name], found = _field(cells, name, field, name == definition.assignment_unit)
        if name in definition.optional:  # as online
            unsaid = is_missing(cells)
            found = [replace(check, wrong=check.wrong & ~unsaid) for check in found]
        if field.pseudonymous:  # no message may contain a customer's id
            found = [replace(check, values=None) for check in found]
        checks += found
    for check in checks:
        wrong = check.wrong & is_good
        for row in np.flatnonzero(wrong).tolist():
            problems[row] = (
                check.problem
                if check.values is None
                else value_problem(check.problem, check.values[row])
            )
        is_good &= ~wrong
    good = np.flatnonzero(is_good)
    return Requests(ids, good, _stored_values(ids, times, columns, good, definition, key), problems)


def _stored_values(
    ids: Column,
    times: Column,
    columns: Mapping[str, Column],
    good: NDArray[np.int64],
    definition: ModelDefinition,
    key: bytes,
) -> pa.Table:
    schema = request_schema(definition)
    arrays = [ids, times]
    for name, field in definition.request.items():
        taken = columns[name].take(good) if len(good) < len(ids) else columns[name]
        arrays.append(pseudonyms(taken, key) if field.pseudonymous else taken)
    if len(good) < len(ids):
        arrays[:2] = ids.take(good), times.take(good)
    return pa.table(arrays, schema=schema)


def _nothing(count: int, field: RequestField) -> Column:
    kind: Any = ARROW[field.type]
    return pa.chunked_array([pa.nulls(count, kind)])


def _missing(values: Column, name: str) -> Iterator[Check]:
    yield Check(is_missing(values), f"{name} is missing")


def _times(block: pa.Table, as_of_ms: int) -> tuple[Column, list[Check]]:
    if EVENT_TIME not in block.column_names:
        now = pa.array(np.full(block.num_rows, as_of_ms * 1000, np.int64)).cast(TIME)
        return pa.chunked_array([now]), []
    cells = block.column(EVENT_TIME)
    times = pc.cast(cells, TIME, safe=False)
    event_us = times.cast(pa.int64()).fill_null(_NOTHING).to_numpy()
    late = Check(event_us > as_of_ms * 1000, f"{EVENT_TIME} is in the future", times)
    return times, [*_missing(cells, EVENT_TIME), within_calendar(cells, EVENT_TIME), late]


def _field(
    values: Column, name: str, field: RequestField, is_unit: bool
) -> tuple[Column, list[Check]]:
    """The values in the field's own type, null if missing, and checks that find wrong ones."""
    checks = list(_missing(values, name))
    match field.type:
        case "int64":
            values, found = whole_numbers(values, name)
            checks += found
        case "float64":
            values = without_nan(values.cast(pa.float64(), safe=False))
        case "bool":
            values, found = truths(values, name)
            checks += found
        case "string":
            values = values.cast(pa.string())
        case "vector":
            values = values.cast(ARROW["vector"])
    return values, [*checks, *within_bounds(values, name, field, is_unit=is_unit)]
