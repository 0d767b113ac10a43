"""SQL of DuckDB: each entity's features at a midnight, and samples of requests.

A window of w days with a delay of d ends d days before the snapshot: [T - d - w, T - d). Counts of
an empty window are 0; other aggregates of it are missing, because nothing is known, and that is not
the same as none. A label_share counts the labels that had arrived at T. A request without a label
counts as negative. A stopped request counts for nothing, because nobody can report its outcome.
Labels need no delay: a label that arrives later is missing in training as it is in serving. An
entity with no request in the longest window has no row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, assert_never

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.features.online import CREATED, EVENT_TIMESTAMP
from mlplatform.model.definition import REQUEST_UNIT, ModelDefinition
from mlplatform.model.features.views import FeatureField, FeatureView, quote
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.runtime.units import DAY_MS

if TYPE_CHECKING:  # a model's folder is read without DuckDB
    import duckdb


def reach_ms(view: FeatureView, at_ms: int) -> tuple[int, int]:
    """The event times that a snapshot at `at_ms` reads: from, inclusive, and to, exclusive."""
    first = max(f.delay_days + f.window_days for f in view.fields)
    last = min(f.delay_days for f in view.fields)
    return at_ms - first * DAY_MS, at_ms - last * DAY_MS


def snapshot_sql(view: FeatureView, *, at_ms: int, available_ms: int) -> str:
    """The rows of a view's snapshot, by key, from relations `requests` and `known_labels`.

    `requests` says which were `_stopped`; `known_labels` holds at most one row a request
    and no label that arrived after `at_ms`.
    """
    from_ms, to_ms = reach_ms(view, at_ms)
    features = ",\n  ".join(f"{_expression(f, at_ms)} AS {f.name}" for f in view.fields)
    needs_labels = any(f.aggregate == "label_share" for f in view.fields)
    labels = "LEFT JOIN known_labels USING (request_id)" if needs_labels else ""
    return (
        f"SELECT {view.join_key},\n  {_time(at_ms)} AS {EVENT_TIMESTAMP},"
        f" {_time(available_ms)} AS {CREATED},\n  {features}\n"
        f"FROM requests {labels}\n"
        f"WHERE event_time >= {_time(from_ms)} AND event_time < {_time(to_ms)}\n"
        f"GROUP BY {view.join_key} ORDER BY {view.join_key}"
    )


def _expression(field: FeatureField, at_ms: int) -> str:
    to_ms = at_ms - field.delay_days * DAY_MS
    from_ms = to_ms - field.window_days * DAY_MS
    inside = f"event_time >= {_time(from_ms)} AND event_time < {_time(to_ms)}"
    window = f"FILTER (WHERE {inside})"
    match field.aggregate:
        case "count":
            return f"CAST(count(*) {window} AS DOUBLE)"
        case "mean":
            return f"avg({field.column}) {window}"
        case "std":
            return f"stddev_pop({field.column}) {window}"
        case "max":
            return f"CAST(max({field.column}) {window} AS DOUBLE)"
        case "label_share":
            known = "(label IS NOT NULL OR NOT _stopped)"
            return f"avg(coalesce(label, 0)) FILTER (WHERE {inside} AND {known})"
        case None:
            raise ConfigInvalid(f"feature {field.name}: aggregate", None, "a view of requests")
        case _:
            assert_never(field.aggregate)


def _time(at_ms: int) -> str:
    return f"CAST(epoch_ms({int(at_ms)}) AS TIMESTAMP)"


LOTS: Final = 2**20
"""Number of lots, of which each unit of assignment has one."""
LARGE: Final = 20
"""A unit of assignment with more than this part of a sample is not taken whole."""


@dataclass(frozen=True, slots=True)
class UnitSample:
    """A sample of requests: all of a share (0-1) of the units of assignment.

    Args:
        split: units that made very many requests; the same share of each one's requests is taken.
    """

    share: float = 1.0
    split: tuple[int | str, ...] = ()


EVERY: Final = UnitSample()


def sample_of(
    definition: ModelDefinition, requests: duckdb.DuckDBPyRelation, most_rows: int
) -> UnitSample:
    """The largest sample of at most `most_rows` of these requests."""
    (count,) = requests.aggregate("count(*)").fetchall()[0]
    if count <= most_rows:
        return EVERY
    lots, counts = _by_lot(definition, requests)
    large = most_rows // LARGE
    split = _large_units(definition, requests, lots[counts > large], large)
    if split:
        lots, counts = _by_lot(definition, requests, split)
    first = lots[np.searchsorted(np.cumsum(counts), most_rows, side="right")]
    return UnitSample(int(first) / LOTS, split)


def _large_units(
    definition: ModelDefinition,
    requests: duckdb.DuckDBPyRelation,
    lots: NDArray[np.int64],
    large: int,
) -> tuple[int | str, ...]:
    """The units of these lots that made more than `large` requests each."""
    unit = definition.assignment_unit
    if unit == REQUEST_UNIT or not len(lots):
        return ()
    in_them = f"{lot_sql(definition)} IN ({', '.join(map(str, lots.tolist()))})"
    counts = requests.filter(in_them).aggregate(f"{quote(unit)} AS unit, count(*) AS n", "unit")
    found = counts.filter(f"n > {large}").order("unit").fetchall()
    return tuple(unit for unit, _ in found)


def _by_lot(
    definition: ModelDefinition,
    requests: duckdb.DuckDBPyRelation,
    split: tuple[int | str, ...] = (),
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The lots that have requests, in order, and how many each has."""
    lot = lot_sql(definition, split)
    found = requests.aggregate(f"{lot} AS lot, count(*) AS n", "lot").order("lot")
    lots, counts = found.to_arrow_table().columns
    return lots.to_numpy().astype(np.int64), counts.to_numpy().astype(np.int64)


def sample_sql(definition: ModelDefinition, sample: UnitSample) -> str:
    """SQL condition on requests: they are in the sample."""
    return f"{lot_sql(definition, sample.split)} < {int(sample.share * LOTS)}"


def lot_sql(definition: ModelDefinition, split: Sequence[int | str] = ()) -> str:
    """SQL of the lot of a request, from 0 to below `LOTS`: that of its unit.

    A unit has the same lot every time, and a larger share has every unit of a smaller one. It does
    not depend on how units were numbered, nor on DuckDB's own hash, which its versions change.

    Args:
        split: units of which each request has a lot of its own.
    """
    unit = definition.assignment_unit
    own = f"coalesce(CAST({quote(unit)} AS VARCHAR), request_id)"  # the field may be a later one
    lot_of = "request_id" if unit == REQUEST_UNIT else own
    if split:
        some = ", ".join(
            str(one) if isinstance(one, int) else "'" + one.replace("'", "''") + "'"
            for one in split
        )
        lot_of = f"CASE WHEN {quote(unit)} IN ({some}) THEN request_id ELSE {lot_of} END"
    return f"CAST('0x' || left(md5({lot_of}), 5) AS INTEGER)"
