"""Payloads of records, decoded many at once."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any, Final, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import Corrupt

T = TypeVar("T")

_AT_ONCE: Final = 5_000
"""Payloads of one text. A payload has some hundred bytes, so the text fits a processor's cache."""


def decoded_payloads(records: pa.Table, kind: type[T]) -> list[T]:
    """The payload of each record as a value of this type; one text of many takes half of the time.

    Args:
        records: table with the columns decision_id and payload, which is never null.

    Raises:
        Corrupt: a payload is not of this type; the error names the decision.
    """
    decoder = msgspec.json.Decoder(kind)
    batches = records.select(["decision_id", "payload"]).to_batches(_AT_ONCE)
    return [*itertools.chain.from_iterable(_decoded(batch, decoder) for batch in batches)]


def _decoded(batch: pa.RecordBatch, decoder: msgspec.json.Decoder[T]) -> list[T]:
    payloads: Any = batch.column("payload")
    whole: Any = pa.ListArray.from_arrays(pa.array([0, len(payloads)], pa.int32()), payloads)
    joined: Any = pc.binary_join(whole, "\n")
    lines = joined[0].as_buffer().to_pybytes()
    found: list[T] = []
    if lines.count(b"\n") == len(payloads) - 1:  # none has a line break of its own
        with contextlib.suppress(*NOT_JSON):  # the payload that is wrong is named below
            found = decoder.decode_lines(lines)
    if len(found) == len(payloads):
        return found
    return [_named(decoder, **row) for row in batch.to_pylist()]


def _named(decoder: msgspec.json.Decoder[T], decision_id: str, payload: str) -> T:
    try:
        return decoder.decode(payload)
    except NOT_JSON as error:
        raise Corrupt(f"decision {decision_id}: payload: {error}") from error
