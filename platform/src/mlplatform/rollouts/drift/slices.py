"""A long stretch of the decision log, read in slices of event time that fit into little memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mlplatform.decisions.records.port import DecisionLog, Span

if TYPE_CHECKING:
    import pyarrow as pa

SLICE_ROWS = 20_000
"""Decisions with their payloads, about a kilobyte each, that are held at a time."""


def slices(log: DecisionLog, span: Span) -> Iterator[pa.Table]:
    """The records of a span, in slices of about `SLICE_ROWS`, by event time.

    The slices are bounded by times, so records of one millisecond are in one slice.

    Args:
        span: with `from_ms` and `to_ms`.
    """
    if span.from_ms is None or span.to_ms is None:
        raise ValueError("a span that is read in slices needs both of its bounds")
    event_ms = log.read(replace(span, columns=("event_ms",)))["event_ms"].to_numpy()
    count = -(-len(event_ms) // SLICE_ROWS)
    if count <= 1:
        yield log.read(span)
        return
    inner = np.quantile(event_ms, np.arange(1, count) / count).astype(np.int64)
    del event_ms
    edges = [span.from_ms, *dict.fromkeys(inner.tolist()), span.to_ms]
    for from_ms, to_ms in itertools.pairwise(edges):
        if from_ms < to_ms:
            yield log.read(replace(span, from_ms=from_ms, to_ms=to_ms))


def void_ids(log: DecisionLog, model: str, from_ms: int) -> list[str]:
    """The decisions of the model that never were."""
    span = Span(model=model, kinds=("void",), from_ms=from_ms, columns=("decision_id",))
    return [str(v) for v in log.read(span)["decision_id"].to_pylist()]
