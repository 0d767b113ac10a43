"""The segments of a logged decision, from its payload and its event time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mlplatform.decisions.records.logged_inputs import damaged_payload
from mlplatform.model.features import transforms
from mlplatform.model.policies.segments import SegmentSource
from mlplatform.runtime.canonical import NOT_JSON

Bits = npt.NDArray[np.uint32]
_Value = bool | float | str | None


class LoggedSegments:
    """Reads only those values of payloads that segments need."""

    def __init__(self, sources: Sequence[SegmentSource]) -> None:
        self._sources = tuple(sources)
        needed = (n for s in self._sources for n in (s.of, s.to) if n is not None)
        self._names = tuple(dict.fromkeys(needed))
        numbered = {f"f{i}": name for i, name in enumerate(self._names)}
        shape = [(key, _Value, None) for key in numbered]
        part = msgspec.defstruct("Part", shape, rename=numbered, gc=False)
        parts = [("request", part | None, None), ("features", part | None, None)]
        self._decode = msgspec.json.Decoder(msgspec.defstruct("Payload", parts)).decode

    def bits(self, rows: pa.Table) -> Bits:
        """The bits of each row, one for each segment that the row lies in; the first segment has
        the lowest bit.

        A row whose payload is empty or was erased lies in segments of time alone.

        Args:
            rows: table with the columns `event_ms` and `payload`.

        Raises:
            Corrupt: a payload does not have the form of a decision's payload.
        """
        event_ms = rows["event_ms"].to_numpy()
        requests, features = self._values(rows) if self._names else ({}, {})
        found = np.zeros(rows.num_rows, dtype=np.uint32)
        for number, source in enumerate(self._sources):
            inside = source.holds(_value(source, event_ms, requests, features))
            found |= inside.astype(np.uint32) << np.uint32(number)
        return found

    def _values(self, rows: pa.Table) -> tuple[dict[str, Sequence[Any]], dict[str, Sequence[Any]]]:
        try:
            payloads = [self._decode(text or "{}") for text in rows["payload"].to_pylist()]
        except NOT_JSON as error:
            raise damaged_payload(error) from error
        nothing = (None,) * len(self._names)

        def columns(part: str) -> dict[str, Sequence[Any]]:
            parts = (getattr(payload, part) for payload in payloads)
            values = [nothing if p is None else msgspec.structs.astuple(p) for p in parts]
            by_name = zip(*values, strict=True) if values else [()] * len(self._names)
            return dict(zip(self._names, by_name, strict=True))

        return columns("request"), columns("features")


def _value(
    source: SegmentSource,
    event_ms: transforms.Times,
    requests: dict[str, Sequence[Any]],
    features: dict[str, Sequence[Any]],
) -> Sequence[Any] | npt.NDArray[Any]:
    of, to = source.of or "", source.to or ""
    match source.kind:
        case "field":
            return requests[of]
        case "view":
            return features[of]
        case "ratio":
            pairs = zip(features[to], requests[to], strict=True)
            below = _numbers([f if f is not None else r for f, r in pairs])
            return transforms.ratios(_numbers(requests[of]), below)
        case _:
            return transforms.TIME_VECTOR[source.kind](event_ms)


def _numbers(values: Sequence[Any]) -> transforms.Column:
    return np.array([transforms.number(value) for value in values], dtype=np.float64)
