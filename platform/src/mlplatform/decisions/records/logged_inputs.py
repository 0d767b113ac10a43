"""A model's inputs as decisions were made from them: read from the payloads in the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from mlplatform.model.definition import EVENT_TIME
from mlplatform.model.inputs import InputPlan
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import Corrupt

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("event_ms", "payload")
"""Those of the log that are needed."""


class LoggedInputs:
    """Reads from a payload only what a plan needs."""

    def __init__(self, plan: InputPlan) -> None:
        self._features = plan.features
        named = (n for i in plan.inputs if i.kind == "request" for n in (i.of, i.to) if n)
        self._fields = tuple(dict.fromkeys(n for n in named if n not in plan.features))
        parts = [
            ("request", _struct("Request", self._fields)),
            ("features", _struct("Features", self._features)),
        ]
        self._decode = msgspec.json.Decoder(msgspec.defstruct("Payload", parts)).decode

    def facts(self, rows: pa.Table) -> pa.Table:
        """What `InputPlan.matrix` takes: event time, request fields and features, as columns.

        Args:
            rows: decisions, with `COLUMNS`.

        Raises:
            Corrupt: a payload is not what was logged.
        """
        import pyarrow as pa

        try:
            payloads = [self._decode(text or "") for text in rows["payload"].to_pylist()]
        except NOT_JSON as error:
            raise Corrupt(f"the payload of a decision is not what was logged: {error}") from error
        columns: dict[str, Any] = {EVENT_TIME: rows["event_ms"].cast(pa.timestamp("ms"))}
        for part, names in (("request", self._fields), ("features", self._features)):
            values = [msgspec.structs.astuple(getattr(p, part)) for p in payloads]
            by_name = zip(*values, strict=True) if values else [()] * len(names)
            for name, column in zip(names, by_name, strict=True):
                columns[name] = pa.array(column, type=pa.float64())
        return pa.table(columns)


def _struct(name: str, fields: Sequence[str]) -> type[msgspec.Struct]:
    numbered = {f"f{i}": field for i, field in enumerate(fields)}
    shape = [(key, float | bool | None, None) for key in numbered]
    return msgspec.defstruct(name, shape, rename=numbered, gc=False)
