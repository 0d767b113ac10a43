"""The inputs from which decisions were made, read from the payloads in the log."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import Meta
from numpy.typing import NDArray

from mlplatform.model.definition import EVENT_TIME
from mlplatform.model.inputs import InputPlan
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import Corrupt

NO_VECTORS: Final[Mapping[str, int]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class InputColumns:
    """The values from which decisions were made.

    Args:
        facts: event time, request fields and features, one column each.
        matrix: the plan's inputs, computed from the facts [rows, inputs].
        newest: feature view → newest snapshot that the decisions read, in epoch milliseconds; None
            if they read none.
    """

    facts: pa.Table
    matrix: NDArray[np.float32]
    newest: Mapping[str, int | None]


def damaged_payload(error: Exception) -> Corrupt:
    """The error of a payload that does not have the form of a decision's payload."""
    return Corrupt(f"the payload of a decision is not what was logged: {error}")


class LoggedInputs:
    """Reads only those values of a payload that a plan needs."""

    def __init__(self, plan: InputPlan) -> None:
        self._plan = plan
        self._views = [view.name for view in plan.views]
        self._features = plan.features
        named = (n for i in plan.inputs if i.kind == "request" for n in (i.of, i.to) if n)
        self._fields = tuple(dict.fromkeys(n for n in named if n not in plan.features))
        parts: list[tuple[str, Any] | tuple[str, Any, Any]] = [
            ("request", _struct("Request", self._fields, plan.texts, plan.vectors, plan.exact)),
            ("features", _struct("Features", self._features)),
            ("feature_times", _struct("Times", self._views), None),
        ]
        shape = msgspec.defstruct("Payload", parts)
        self._decode = msgspec.json.Decoder(shape).decode
        self._erased = msgspec.convert({"request": {}, "features": {}}, shape)

    def read(self, rows: pa.Table) -> InputColumns:
        """The values from which these decisions were made; all are missing where a payload was
        erased.

        Args:
            rows: table with the columns `event_ms` and `payload`.

        Raises:
            Corrupt: a payload does not have the form of a decision's payload.
        """
        try:
            texts = rows["payload"].to_pylist()
            payloads = [self._erased if text is None else self._decode(text) for text in texts]
        except NOT_JSON as error:
            raise damaged_payload(error) from error
        columns: dict[str, Any] = {EVENT_TIME: rows["event_ms"].cast(pa.timestamp("ms"))}
        for part, names in (("request", self._fields), ("features", self._features)):
            values = [msgspec.structs.astuple(getattr(p, part)) for p in payloads]
            by_name = zip(*values, strict=True) if values else [()] * len(names)
            for name, column in zip(names, by_name, strict=True):
                columns[name] = pa.array(column, type=self._kind(name, column))
        facts = pa.table(columns)
        return InputColumns(facts, self._plan.matrix(facts), self._newest(payloads))

    def _kind(self, name: str, values: Sequence[Any]) -> pa.DataType:
        if name in self._plan.exact and any(type(value) is int for value in values):
            is_whole = all(type(value) is int for value in values if value is not None)
            return pa.int64() if is_whole else pa.float64()
        if name in self._plan.vectors:
            return pa.list_(pa.float32())
        return pa.string() if name in self._plan.texts else pa.float64()

    def _newest(self, payloads: Sequence[Any]) -> dict[str, int | None]:
        read = [msgspec.structs.astuple(p.feature_times) for p in payloads if p.feature_times]
        by_view = zip(*read, strict=True) if read else [()] * len(self._views)
        return {
            view: max((int(t) for t in times if t is not None), default=None)
            for view, times in zip(self._views, by_view, strict=True)
        }


def _struct(
    name: str,
    fields: Sequence[str],
    texts: Collection[str] = (),
    vectors: Mapping[str, int] = NO_VECTORS,
    exact: Collection[str] = (),
) -> type[msgspec.Struct]:
    numbered = {f"f{i}": field for i, field in enumerate(fields)}
    number, text = float | bool | None, str | None
    kinds: dict[str, Any] = dict.fromkeys(texts, text)
    kinds |= dict.fromkeys(exact, int | float | bool | None)
    for field, length in vectors.items():
        of_length = Meta(min_length=length, max_length=length)
        kinds[field] = Annotated[list[float], of_length] | None
    shape = [(key, kinds.get(field, number), None) for key, field in numbered.items()]
    return msgspec.defstruct(name, shape, rename=numbered, gc=False)
