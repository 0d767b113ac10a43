"""Rows of the offline table: the form of a history, and the rows made from the log's records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Annotated, Any, Final, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlplatform.decisions.records.draws import LoggedDraw
from mlplatform.decisions.records.last_labels import RANK
from mlplatform.decisions.records.payloads import decoded_payloads
from mlplatform.decisions.records.pseudonym import pseudonym
from mlplatform.decisions.records.rankings import LoggedPlace
from mlplatform.decisions.records.record import LABEL_VALUES, MODELS
from mlplatform.learning.features.columns import UNITS, Check, value_problem
from mlplatform.model.definition import ModelDefinition, RequestField
from mlplatform.model.features.views import quote
from mlplatform.runtime.clock import LAST_MS
from mlplatform.runtime.errors import InputInvalid

Column: TypeAlias = "pa.ChunkedArray[Any]"

Flags = NDArray[np.bool_]

TIME = pa.timestamp("us")
_NOTHING: Final[Any] = 0
MOST_CHARACTERS = 1024
"""Most characters of a text without a `max_length` of its own, as in requests."""
ARROW: dict[str, pa.DataType] = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "vector": pa.list_(pa.float32()),  # a row is float32 too
}
_SQL: Mapping[pa.DataType, str] = {
    pa.int8(): "TINYINT",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.bool_(): "BOOLEAN",
    TIME: "TIMESTAMP",
}
HEAD: list[tuple[str, pa.DataType]] = [("request_id", pa.string()), ("event_time", TIME)]
PYTHON: dict[str, type] = {"int64": int, "float64": float, "string": str, "bool": bool}
TAIL: list[tuple[str, pa.DataType]] = [("label", pa.int8()), ("label_time", TIME)]
ORDER: list[tuple[str, pa.DataType]] = [("recorded_ms", pa.int64()), ("seq", pa.int64())]
LABELS = pa.schema([HEAD[0], *TAIL, *ORDER])
LABEL_TYPES: Mapping[str, pa.DataType] = {
    "binary": pa.int8(),
    "classes": pa.string(),
    "real": pa.float64(),
}
"""Task of a model → the type of its labels in histories and the offline table."""
LABEL_RANK = ", ".join(("label_time", *RANK[1:]))
"""SQL order of labels over `LABELS`; the last one counts."""
VOIDS = pa.schema(HEAD)
"""Voids, each with its own event time; parts of an earlier version lack it."""
DECIDED = pa.schema(
    [
        HEAD[0], ("decision", pa.string()), ("by_model", pa.bool_()),
        ("propensity", pa.float64()), ("explored", pa.bool_()),
    ]
)  # fmt: skip
"""Columns of decisions that hid an outcome, or showed one by chance; all other decisions have no
row."""


def history_schema(definition: ModelDefinition) -> pa.Schema:
    """Columns of a history: id, event time (UTC), the request's fields, label and its arrival."""
    fields = [(name, ARROW[f.type]) for name, f in definition.request.items()]
    label = labels_schema(definition).field("label")
    return pa.schema([*HEAD, *fields, (label.name, label.type), TAIL[1]])


def labels_schema(definition: ModelDefinition) -> pa.Schema:
    """`LABELS`; for a model of classes or numbers with that type of label."""
    place = LABELS.get_field_index("label")
    return LABELS.set(place, pa.field("label", LABEL_TYPES[definition.task]))


def request_schema(definition: ModelDefinition) -> pa.Schema:
    """Columns of the requests of the offline table, pseudonyms as int64."""
    fields = [(name, _stored_type(f)) for name, f in definition.request.items()]
    return pa.schema([*HEAD, *fields])


def completed(table: pa.Table, definition: ModelDefinition) -> pa.Table:
    """The table with a column of nulls for each field that it lacks and may lack."""
    optional = definition.optional
    for column in history_schema(definition):
        if column.name in optional and column.name not in table.column_names:
            kind: Any = column.type
            table = table.append_column(column, pa.nulls(len(table), kind))
    return table


def check_history(table: pa.Table, definition: ModelDefinition, source: str) -> None:
    """Raise for a history that breaks the model's request schema or the order of time.

    Raises:
        InputInvalid: the history is wrong; the message names the source, the first wrong row (from
            0) and what is wrong.
    """
    table = completed(table, definition)
    check_columns(table.schema, history_schema(definition), source)
    if not table.num_rows:
        raise InputInvalid(source, None, "there is no row in it")
    for checks in (checks_of_presence, checks_of_values):
        for found in checks(table, definition):
            refuse(found.wrong, source, found.problem, found.values)


def checks_of_presence(table: pa.Table, definition: ModelDefinition) -> Iterator[Check]:
    """Checks that a history's rows have all that they need; the others take rows that do."""
    for name in ("event_time", "request_id", *definition.request):
        if name not in definition.optional:
            yield Check(is_missing(table.column(name)), f"{name} is missing")
    for name in ("event_time", "label_time"):
        yield within_calendar(table.column(name), name)


def checks_of_values(table: pa.Table, definition: ModelDefinition) -> Iterator[Check]:
    """Checks of the values of a history's rows, of their order, and of their labels."""
    for name in ("request_id", *(n for n, f in definition.request.items() if f.type == "string")):
        yield printable(table.column(name), name)
    unit = definition.assignment_unit
    for name, field in definition.request.items():
        values = table.column(name)
        known = ~is_missing(values)
        for found in within_bounds(values, name, field, is_unit=name == unit):
            yield replace(found, wrong=found.wrong & known)
    yield in_order(table.column("event_time"), "event_time")
    yield unique_values(table.column("request_id"), "request_id")
    yield from _label_checks(table, definition)


def check_columns(found: pa.Schema, wanted: pa.Schema, source: str) -> None:
    """Raise for missing, unknown and mistyped columns, in any order."""
    for name in wanted.names:
        if name not in found.names:
            raise InputInvalid(source, None, f"column {name} is missing")
    for field in found:
        if field.name not in wanted.names:
            raise InputInvalid(source, None, f"column {field.name} is unknown")
        right = wanted.field(field.name).type
        if field.type != right:
            problem = f"column {field.name} is of type {field.type}; wanted: {right}"
            raise InputInvalid(source, None, problem)


def within_calendar(times: Column, name: str) -> Check:
    """Check that each time, in whichever unit, is one that a request may have; a missing time has
    no problem."""
    kind: Any = times.type
    counts = times.cast(pa.int64()).fill_null(_NOTHING).to_numpy()
    outside = (counts < 0) | (counts // UNITS[kind.unit] > LAST_MS // 1000)
    return Check(outside, f"{name} is not from 1970 to 9999 in the unit of its column", times)


def in_order(times: Column, name: str) -> Check:
    """Check that no time is before that of the row above it."""
    steps = np.diff(times.cast(pa.int64()).to_numpy(), prepend=-(2**62))
    problem = f"{name} is before that of the row above (sort the rows by it, oldest first)"
    return Check(steps < 0, problem, times)


def known_by(times: Column, name: str, now_ms: int, *, may_be_empty: bool = False) -> Check:
    """Check that no label is known later than now (epoch milliseconds); a missing time passes."""
    late = times.to_numpy() > np.datetime64(now_ms, "ms")
    hint = " (a label 0 may leave its time empty)" if may_be_empty else ""
    return Check(late, f"{name} is in the future, so the label can't be known yet{hint}", times)


def within_bounds(
    values: Column, name: str, field: RequestField, *, is_unit: bool = False
) -> list[Check]:
    """Checks that each number is finite, and that no value is outside the bounds that model.yaml
    gives the field.

    Args:
        is_unit: whether it is the model's unit of assignment.
    """
    found = []
    if field.type == "string":
        return _within_words(values, name, field, is_key=is_unit or field.identifies)
    if field.type == "vector":
        return _within_vector(values, name, field)
    numbers = values.to_numpy()
    if field.type == "float64":
        infinite = np.isinf(numbers)
        found.append(Check(infinite, f"{name} is not finite", values))
        numbers = np.where(infinite, np.nan, numbers)
    if field.minimum is not None:
        below = numbers < field.minimum
        found.append(Check(below, f"{name} is less than {field.minimum:.15g}", values))
    if field.maximum is not None:
        above = numbers > field.maximum
        found.append(Check(above, f"{name} is more than {field.maximum:.15g}", values))
    return found


def _within_words(values: Column, name: str, field: RequestField, is_key: bool) -> list[Check]:
    longest = field.max_length or MOST_CHARACTERS
    lengths = pc.utf8_length(values).to_numpy()
    found = [Check(lengths > longest, f"{name} has more than {longest} characters", values)]
    if is_key:
        found.append(Check(lengths == 0, f"{name} is empty"))
    if field.values is not None:
        listed = pc.is_in(values, value_set=pa.array(field.values, pa.string())).to_numpy()
        found.append(Check(~listed, f"{name} is none of request.{name}.values", values))
    return found


def _within_vector(values: Column, name: str, field: RequestField) -> list[Check]:
    """Checks of vectors; a refusal shows one number with its index, and never a whole vector."""
    lengths = pc.list_value_length(values).fill_null(field.length or 0).to_numpy()
    problem = f"{name} has another length than {field.length}"
    found = [Check(lengths != field.length, problem, pa.chunked_array([lengths]))]
    flat: Any = pc.list_flatten(values)
    numbers = flat.to_numpy(zero_copy_only=False)
    counts = np.where(is_missing(values), 0, lengths)
    row = np.repeat(np.arange(len(values)), counts)
    index = np.arange(len(numbers)) - np.repeat(np.cumsum(counts) - counts, counts)
    tests: list[tuple[str, NDArray[np.bool_]]] = [
        (f"{name} has a value that is not a finite float32", ~np.isfinite(numbers))
    ]
    if field.minimum is not None:
        below = numbers < np.float32(field.minimum)
        tests.append((f"{name} has a value of less than {field.minimum:.15g}", below))
    if field.maximum is not None:
        above = numbers > np.float32(field.maximum)
        tests.append((f"{name} has a value of more than {field.maximum:.15g}", above))
    for problem, is_wrong in tests:
        wrong, shown = np.zeros(len(values), np.bool_), np.zeros(len(values), np.int64)
        at = np.flatnonzero(is_wrong)
        rows, first = np.unique(row[at], return_index=True)
        wrong[rows], shown[rows] = True, at[first]
        places: Any = pa.array(index[shown] if len(index) else shown)
        of_rows = numbers[shown] if len(numbers) else np.zeros(len(values), np.float32)
        pairs = pa.StructArray.from_arrays([places, pa.array(of_rows)], ["index", "value"])
        found.append(Check(wrong, problem, pa.chunked_array([pairs])))
    return found


def unique_values(values: Column, name: str) -> Check:
    """Check that no value is that of an earlier row."""
    codes = values.combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.full(len(codes), len(codes))
    np.minimum.at(first, codes, np.arange(len(codes)))
    again = first[codes] != np.arange(len(codes))
    return Check(again, f"{name} is that of an earlier row", values)


def check_order(times: Column, name: str, source: str) -> None:
    """Raise for a time before that of the row above it."""
    found = in_order(times, name)
    refuse(found.wrong, source, found.problem, times)


def check_printable(values: Column, name: str, source: str) -> None:
    """Raise for a text with control characters or others that show nothing."""
    found = printable(values, name)
    refuse(found.wrong, source, found.problem, values)


def printable(values: Column, name: str) -> Check:
    """Check that no text has control characters or others that show nothing."""
    shows = pc.utf8_is_printable(values).fill_null(True)
    return Check(~shows.to_numpy(), f"{name} holds a character that is not printed", values)


def check_unique(values: Column, name: str, source: str) -> None:
    """Raise for a value that an earlier row has."""
    found = unique_values(values, name)
    refuse(found.wrong, source, found.problem, values)


def refuse(
    wrong: NDArray[np.bool_], source: str, problem: str, values: Column | None = None
) -> None:
    """Raise with the number of the first wrong row, if there is one, and with its value if
    given."""
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputInvalid(
            source, row, problem if values is None else value_problem(problem, values[row])
        )


def is_missing(values: Column) -> NDArray[np.bool_]:
    missing: NDArray[np.bool_] = values.is_null(nan_is_null=True).to_numpy()
    return missing


def without_nan(values: Column) -> Column:
    """The values with null for each NaN, which SQL would call greater than every number."""
    if not pa.types.is_floating(values.type):
        return values
    known: Column = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    return known


def split_history(
    table: pa.Table, definition: ModelDefinition, key: bytes
) -> tuple[pa.Table, pa.Table]:
    """A history's requests with pseudonyms, and its labels."""
    requests = table.select(request_schema(definition).names)
    for position, name in enumerate(requests.column_names):
        field = definition.request.get(name)
        if field is not None and field.pseudonymous:
            hidden = pseudonyms(table.column(name), key)
            requests = requests.set_column(position, name, hidden)
        elif field is not None and field.optional:
            requests = requests.set_column(position, name, without_nan(table.column(name)))
    labels = table.select(LABELS.names[:3]).filter(pc.is_valid(table.column("label")))
    for name, kind in ORDER:  # history comes before all records of the log
        labels = labels.append_column(name, pa.array(np.zeros(len(labels), np.int64), kind))
    return requests.cast(request_schema(definition)), labels


def decided_of(decisions: pa.Table, payloads: Sequence[Any], hides: Sequence[str]) -> pa.Table:
    """Rows of `DECIDED` from decision records: of requests stopped, explored or shown to nobody.

    Args:
        payloads: their `payloads_of`.
    """
    withheld = pa.array(
        [p.ranking is not None and p.ranking.withheld for p in payloads], pa.bool_()
    )
    table = pa.table(
        [
            decisions.column("decision_id"), decisions.column("decision"),
            pc.and_not(pc.is_in(decisions.column("answered_by"), pa.array(MODELS)), withheld),
            *(pa.array(map(attrgetter(f.name), payloads), f.type) for f in list(DECIDED)[-2:]),
        ],
        schema=DECIDED,
    )  # fmt: skip
    hidden = pc.is_in(table.column("decision"), value_set=pa.array(hides, pa.string()))
    return table.filter(pc.or_(pc.or_(hidden, withheld), table.column("explored")))


def requests_of(
    decisions: pa.Table, payloads: Sequence[Any], definition: ModelDefinition
) -> pa.Table:
    """The requests in decision records with these `payloads_of`."""
    requests = [payload.request for payload in payloads]
    times = event_times(decisions.column("event_ms"))
    schema = request_schema(definition)
    arrays = [
        pa.array(map(attrgetter(name), requests), schema.field(name).type)
        for name in definition.request
    ]
    return pa.table([decisions.column("decision_id"), times, *arrays], schema=schema)


def declared_columns(columns: Sequence[str], schema: pa.Schema) -> list[str]:
    """SQL of the columns of a schema, in its order; null where a table has no such column."""
    return [
        quote(f.name)
        if f.name in columns
        else f"CAST(NULL AS {sql_type(f.type)}) AS {quote(f.name)}"
        for f in schema
    ]


def sql_type(kind: pa.DataType) -> str:
    """DuckDB's name of a type."""
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    return _SQL[kind]


def labels_of(records: pa.Table, definition: ModelDefinition) -> pa.Table:
    """Label records as rows; a label is known from its arrival on."""
    value = LABEL_VALUES[definition.task]
    records = records.filter(pc.is_valid(records.column(value)))
    times = event_times(records.column("event_ms"))
    columns = [
        records.column("decision_id"), records.column(value), times,
        *(records.column(name) for name, _ in ORDER),
    ]  # fmt: skip
    return pa.table(columns, schema=labels_schema(definition))


def voids_of(records: pa.Table) -> pa.Table:
    times = event_times(records.column("event_ms"))
    return pa.table([records.column("decision_id"), times], schema=VOIDS)


def last_seq(records: pa.Table) -> dict[str, int]:
    """The largest number of each writer among these records."""
    last = records.group_by("writer").aggregate([("seq", "max")])
    return {row["writer"]: row["seq_max"] for row in last.to_pylist()}


def _stored_type(field: RequestField) -> pa.DataType:
    return pa.int64() if field.pseudonymous else ARROW[field.type]


def payloads_of(decisions: pa.Table, definition: ModelDefinition) -> list[Any]:
    """Decision records' payloads, each with its `request`, draw, `windows_at` and `ranking`.

    Raises:
        Corrupt: a payload is not what was logged.
    """
    # A field may have been declared after the request was recorded
    fields: list[Any] = [
        (name, (int if f.pseudonymous else _python_type(f)) | None, None)
        for name, f in definition.request.items()
    ]
    request = msgspec.defstruct("Request", fields, kw_only=True, gc=False)
    parts: list[Any] = [("request", request), ("windows_at", dict[str, int] | None, None),
                        ("ranking", LoggedPlace | None, None)]  # fmt: skip
    payload = msgspec.defstruct("Payload", parts, bases=(LoggedDraw,), kw_only=True, frozen=True)
    return decoded_payloads(decisions, payload)


def _python_type(field: RequestField) -> Any:
    return python_vector(field.length or 0) if field.type == "vector" else PYTHON[field.type]


def python_vector(length: int) -> Any:
    """The type as which msgspec decodes a logged vector."""
    return Annotated[list[float], msgspec.Meta(min_length=length, max_length=length)]


def pseudonyms(values: Column, key: bytes) -> Column:
    """The pseudonym of each value, as int64."""
    encoded = values.combine_chunks().dictionary_encode()
    hidden = [pseudonym(value, key) for value in encoded.dictionary.to_pylist()]
    return pa.chunked_array([pa.array(hidden, pa.int64()).take(encoded.indices)])


def _label_checks(table: pa.Table, definition: ModelDefinition) -> Iterator[Check]:
    unknown = is_missing(table.column("label"))
    half = unknown != is_missing(table.column("label_time"))
    yield Check(half, "label and label_time must both be there or both be missing")
    other, problem = IMPOSSIBLE_LABELS[definition.task](table.column("label"), definition)
    yield Check(other & ~unknown, problem, table.column("label"))
    times = table.column("label_time")
    early = times.to_numpy() < table.column("event_time").to_numpy()
    yield Check(early & ~unknown, "label_time is before event_time", times)


def _not_binary(labels: Column, _: ModelDefinition) -> tuple[Flags, str]:
    values = np.nan_to_num(labels.cast(pa.float64()).to_numpy())
    return ~np.isin(values, (0, 1)), "label is not 0 or 1"


def _no_class(labels: Column, definition: ModelDefinition) -> tuple[Flags, str]:
    known = pa.array(definition.classes, pa.string())
    other = ~pc.is_in(labels, value_set=known).to_numpy()
    return other, f"label is none of {', '.join(definition.classes)}"


def _no_number(labels: Column, definition: ModelDefinition) -> tuple[Flags, str]:
    number = definition.decision.scale.number
    assert number is not None
    values = labels.to_numpy()
    return ~number.admits(values), f"label is not {number.span} (decision.number)"


IMPOSSIBLE_LABELS: Mapping[str, Callable[[Column, ModelDefinition], tuple[Flags, str]]] = {
    "binary": _not_binary,
    "classes": _no_class,
    "real": _no_number,
}
"""Task of a model → the labels that it can't have, and the problem."""


def event_times(event_ms: Column) -> Column:
    """Epoch milliseconds as the type of the tables' times."""
    return event_ms.cast(pa.timestamp("ms")).cast(TIME)
