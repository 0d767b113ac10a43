"""Rows of a bank's table in the platform's own columns, with every value checked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlplatform.learning.features.columns import INTEGERS, MOST_NAMED, UNITS, value_problem
from mlplatform.learning.features.online import CREATED, EVENT_TIMESTAMP
from mlplatform.learning.features.rows import is_missing, pseudonyms, within_bounds
from mlplatform.model.definition import ModelDefinition, RequestField
from mlplatform.model.features.views import MOST_WHOLE, FeatureView, ValueType
from mlplatform.runtime.errors import InputInvalid

LAST_S: Final = 2**33
"""Latest accepted time in seconds of the epoch, in the year 2242; later times are mistakes."""
VALUES: Final[Mapping[ValueType, pa.DataType]] = {
    "float64": pa.float64(),
    "int64": pa.int64(),
    "bool": pa.bool_(),
}
_TAKEN: Final[Mapping[str, tuple[pa.DataType, ...]]] = {
    "float64": (pa.float64(), pa.float32(), *INTEGERS),
    "int64": INTEGERS,
    "bool": (pa.bool_(),),
    "string": (pa.string(), pa.large_string()),
    "time": tuple(pa.timestamp(unit) for unit in ("us", "ns", "ms", "s")),
}

RowNumbers = range | NDArray[np.int64]
"""Numbers of rows in their file, from 0 on, in order."""


@dataclass(frozen=True, slots=True)
class ExternalColumns:
    """A view's columns in a bank's files, and the columns that are stored.

    Args:
        field: the request field whose value is the entity's key.
        pseudonym_key: the secret by which keys become pseudonyms, if the field is pseudonymous.
        now_ms: the present event time; a row with a later availability time is refused.
    """

    view: FeatureView
    field: RequestField
    pseudonym_key: bytes
    now_ms: int

    @classmethod
    def of(
        cls, view: FeatureView, definition: ModelDefinition, pseudonym_key: bytes, now_ms: int
    ) -> ExternalColumns:
        return cls(view, definition.request[view.join_key], pseudonym_key, now_ms)

    @property
    def kinds(self) -> Mapping[str, str]:
        """Column of the file → its kind: a key of the types that are accepted."""
        source = self.view.external
        assert source is not None
        return {
            self.view.join_key: source.key,
            source.event_time: "time",
            source.available_time: "time",
            **{f.name: f.dtype for f in self.view.fields},
        }

    @property
    def row_digest(self) -> str:
        """A digest of what makes a row's key and times: where it is another, the same file has
        other rows. Features are not in it: a row that is there keeps the values it has."""
        source = self.view.external
        assert source is not None
        declared = [
            *(self.view.join_key, source.key, source.event_time, source.available_time),
            *(self.field.type, self.field.pseudonymous),
        ]
        return hashlib.sha256(msgspec.json.encode(declared)).hexdigest()[:16]

    @property
    def described(self) -> dict[str, tuple[list[str], str]]:
        """Column of the file → its types in Parquet, and its description."""
        source = self.view.external
        assert source is not None
        meaning = {
            self.view.join_key: f"the {self.view.entity}, as request.{self.view.join_key}",
            source.event_time: "from when on the row's values hold; not after "
            f"{source.available_time}",
            source.available_time: "when they were known; not in the future",
        }
        return {
            name: (
                [str(kind) for kind in _TAKEN[accepted]],
                meaning.get(name, "a feature, or none"),
            )
            for name, accepted in self.kinds.items()
        }

    def found(self, types: Mapping[str, str], source: str) -> dict[str, pa.DataType]:
        """The type of each wanted column in a Parquet file.

        Args:
            types: column of the file → its type, as Arrow names it. A time with a time zone is an
                instant, whatever the zone.

        Raises:
            InputInvalid: a column is missing or has another type; the message names it.
        """
        wanted = {}
        self.check_names(types, source)
        for name, kind in self.kinds.items():
            actual = types[name]
            plain = (
                f"{actual.split(',')[0]}]"
                if actual.startswith("timestamp[") and "," in actual
                else actual
            )
            taken = next((t for t in _TAKEN[kind] if str(t) == plain), None)
            if taken is None:
                options = " or ".join(map(str, _TAKEN[kind]))
                raise InputInvalid(source, None, f"column {name} is {actual}; wanted: {options}")
            wanted[name] = taken
        return wanted

    def check_names(self, types: Mapping[str, str], source: str) -> None:
        """Raises InputInvalid if a column is missing; the message names it, and the columns that
        are there."""
        if lacking := [name for name in self.kinds if name not in types]:
            named = ", ".join(list(types)[:MOST_NAMED])
            more = f" and {len(types) - MOST_NAMED} more" if len(types) > MOST_NAMED else ""
            problem = f"there is no column {', '.join(lacking)}; it has {named}{more}"
            raise InputInvalid(source, None, problem)

    @property
    def schema(self) -> pa.Schema:
        """The stored columns. Times are whole seconds, because online stores keep no finer ones:
        event times are rounded down, availability times up."""
        is_text = self.field.type == "string" and not self.field.pseudonymous
        return pa.schema(
            [
                (self.view.join_key, pa.string() if is_text else pa.int64()),
                (EVENT_TIMESTAMP, pa.timestamp("us")),
                (CREATED, pa.timestamp("us")),
                *((f.name, VALUES[f.dtype]) for f in self.view.fields),
            ]
        )

    def stored(self, rows: pa.RecordBatch, source: str, numbers: RowNumbers) -> pa.RecordBatch:
        """Rows of a file in the columns of `schema`.

        Args:
            numbers: the number of each row in its file, for messages.

        Raises:
            InputInvalid: a row is wrong; the message names the file, the first such row and what is
                wanted.
        """
        external = self.view.external
        assert external is not None
        key, checks = self._key(rows)
        event_s, event_checks = _seconds(rows, external.event_time, up=False)
        known_s, known_checks = _seconds(rows, external.available_time, up=True)
        checks += [*event_checks, *known_checks]
        late = (
            event_s > known_s,
            f"{external.event_time} is after {external.available_time}",
            None,
        )
        future = (
            known_s > -(-self.now_ms // 1000),
            f"{external.available_time} is in the future: a value has to be known by then",
            rows.column(external.available_time),
        )
        values = []
        for field in self.view.fields:
            column, found = _value(rows, field.name, field.dtype)
            values.append(column)
            checks += found
        _refuse([*checks, late, future], source, numbers)
        times = [
            pa.array(seconds * 10**6).cast(pa.timestamp("us")) for seconds in (event_s, known_s)
        ]
        return pa.RecordBatch.from_arrays([key, *times, *values], schema=self.schema)

    def _key(self, rows: pa.RecordBatch) -> tuple[pa.Array[Any], list[_Check]]:
        name, field = self.view.join_key, self.field
        values = pa.chunked_array([rows.column(name)])
        values = values.cast(pa.string() if field.type == "string" else pa.int64())
        missing = is_missing(values)
        checks: list[_Check] = [(missing, f"{name} is missing", None)]
        nothing: Any = "" if field.type == "string" else 0
        values = values.fill_null(nothing)
        for found in within_bounds(values, name, field):
            # No message may contain a customer's id.
            shown = None if field.pseudonymous else found.values
            checks.append((found.wrong & ~missing, found.problem, shown))
        if field.pseudonymous:
            values = pseudonyms(values, self.pseudonym_key)
        return values.combine_chunks(), checks


_Check = tuple[NDArray[np.bool_], str, Any]
"""Which rows are wrong, why, and the values to show, if any."""


def _refuse(checks: list[_Check], source: str, numbers: RowNumbers) -> None:
    """Raise for the first wrong row, with the first check that finds it."""
    wrong = [
        (int(np.argmax(rows)), place) for place, (rows, _, _) in enumerate(checks) if rows.any()
    ]
    if wrong:
        row, place = min(wrong)
        _, problem, values = checks[place]
        problem_text = problem if values is None else value_problem(problem, values[row])
        raise InputInvalid(source, int(numbers[row]), problem_text)


def _seconds(
    rows: pa.RecordBatch, name: str, *, up: bool
) -> tuple[NDArray[np.int64], list[_Check]]:
    """Seconds of the epoch; 0 for a missing time, or one beyond the range of the tables."""
    column = pa.chunked_array([rows.column(name)])
    unit = UNITS[column.type.unit]
    missing = is_missing(column)
    whole: Any = column.cast(pa.int64())
    found = whole.fill_null(0).to_numpy()
    seconds = -(-found // unit) if up else found // unit
    outside = (seconds < 0) | (seconds >= LAST_S)
    wanted = f"{name} is not between 1970 and 2242"
    checks: list[_Check] = [(missing, f"{name} is missing", None), (outside, wanted, None)]
    return np.where(outside, 0, seconds), checks


def _value(rows: pa.RecordBatch, name: str, dtype: ValueType) -> tuple[pa.Array[Any], list[_Check]]:
    column: Any = rows.column(name).cast(VALUES[dtype])
    if dtype == "float64":
        numbers = column.to_numpy(zero_copy_only=False)
        column = pa.array(numbers, pa.float64(), from_pandas=True)  # NaN is missing
        return column, [(np.isinf(numbers), f"{name} is infinite; wanted: a number, or none", None)]
    if dtype == "int64":
        numbers = column.fill_null(0).to_numpy(zero_copy_only=False)
        wrong = (numbers > MOST_WHOLE) | (numbers < -MOST_WHOLE)
        problem = f"{name} is beyond 2**53: models can't tell larger whole numbers apart"
        return column, [(wrong, problem, column)]
    return column, []
