"""A long stretch of the decision log, read in slices of event time that fit into little memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from mlplatform.decisions.records.port import DecisionLog, RecordQuery

SLICE_ROWS = 20_000
"""The number of decisions with payloads, about a kilobyte each, that are held in memory at a
time."""


@dataclass(frozen=True, slots=True)
class RecordSlices:
    """The records of a query, in slices of about `SLICE_ROWS`, by event time.

    The slices are bounded by times, so records of one millisecond are in one slice.

    Args:
        rows: number of records of the query before the first slice was read.
        edges: event times that bound the slices, ascending; one more than there are slices.
    """

    log: DecisionLog
    query: RecordQuery
    rows: int
    edges: tuple[int, ...]

    def __iter__(self) -> Iterator[pa.Table]:
        for from_ms, to_ms in itertools.pairwise(self.edges):
            yield self.log.read(replace(self.query, from_ms=from_ms, to_ms=to_ms))


def slices(log: DecisionLog, query: RecordQuery) -> RecordSlices:
    """The slices of the records of a query.

    Args:
        query: query with both `from_ms` and `to_ms`.
    """
    if query.from_ms is None or query.to_ms is None:
        raise ValueError("a query that is read in slices needs both of its bounds")
    event_ms = log.read(replace(query, columns=("event_ms",)))["event_ms"].to_numpy()
    count = max(-(-len(event_ms) // SLICE_ROWS), 1)
    inner = np.quantile(event_ms, np.arange(1, count) / count) if count > 1 else np.array([])
    edges = sorted({query.from_ms, *inner.astype(np.int64).tolist(), query.to_ms})
    return RecordSlices(log, query, len(event_ms), tuple(edges))


def void_ids(log: DecisionLog, model: str, from_ms: int) -> list[str]:
    """Ids of the model's voided decisions."""
    return [decision_id for decision_id, _ in void_times(log, model, from_ms)]


def void_times(log: DecisionLog, model: str, from_ms: int) -> list[tuple[str, int]]:
    """Voided decisions of the model, each with the event time of its void."""
    columns = ("decision_id", "event_ms")
    rows = log.read(RecordQuery(model=model, kinds=("void",), from_ms=from_ms, columns=columns))
    ids, event_ms = rows["decision_id"].to_pylist(), rows["event_ms"].to_numpy().tolist()
    return [(str(i), ms) for i, ms in zip(ids, event_ms, strict=True)]
