"""One skew pass: a sample of the log's new decisions, counted again from raw records and judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import duckdb
import pyarrow as pa

from mlplatform.decisions.records.port import DecisionLog
from mlplatform.learning.features.compile import reach_ms
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.snapshots import snapshot_files
from mlplatform.learning.skew.cells import Cell
from mlplatform.learning.skew.decision_reads import DecisionReads, Key, SampledReads, take
from mlplatform.learning.skew.raw_records import database, gather
from mlplatform.learning.skew.tables import table_cells
from mlplatform.learning.skew.verdict import SkewReport, UncountableRequests, judge
from mlplatform.learning.skew.views import view_cells
from mlplatform.learning.skew.windows import window_cells
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.features.views import FeatureView, external, request_views
from mlplatform.model.windows.tiles import series_of
from mlplatform.runtime.units import DAY_MS, HOUR_MS

SAMPLE: Final = 2_000
"""Size of a sample. If none of so many is wrong, at most half a percent of all are, for 20 features
at once."""
MOST_SAMPLED: Final = 20_000


@dataclass(frozen=True, slots=True)
class SkewPass:
    """The result of a pass, and the last log record that it has read of each writer."""

    report: SkewReport
    position: Mapping[str, int]


def compare(
    definition: ModelDefinition,
    views: Sequence[FeatureView],
    log: DecisionLog,
    offline: OfflineTable,
    *,
    after: Mapping[str, int] | None = None,
    from_ms: int | None = None,
    size: int = SAMPLE,
) -> SkewPass:
    """Compare a sample of decisions with the log and the imported history.

    The log is read twice, in portions; what is gathered of it lies on disk beyond a limit. The
    online state is not read.

    Args:
        after: per writer, the number of the last record that an earlier pass has read; None: none.
        from_ms: event time of the first decision; None: no bound.
        size: number of decisions to sample, 1 to `MOST_SAMPLED`.

    Raises:
        Corrupt: the log can't be read.
    """
    upto = {mark.writer: mark.seq for mark in log.watermarks() if mark.seq}
    size = min(max(size, 1), MOST_SAMPLED)
    sampled = take(log, definition, size=size, upto=upto, after=after, from_ms=from_ms)
    return SkewPass(_report(definition, views, log, offline, upto, sampled), upto)


def _report(
    definition: ModelDefinition,
    views: Sequence[FeatureView],
    log: DecisionLog,
    offline: OfflineTable,
    upto: Mapping[str, int],
    sampled: SampledReads,
) -> SkewReport:
    policy, served = definition.features, sampled.served
    features = [*(n for v in views for n in v.feature_names), *(w.name for w in definition.windows)]
    lost = 0
    with database() as db:
        if served and features:
            lost = gather(
                db,
                log,
                offline,
                keys=_keys(definition, served),
                from_ms=_reach(definition, views, served),
                upto=upto,
            )
            served = _readable_reads(db, served)
        made = request_views(views)
        files = {view.name: snapshot_files(offline, view) for view in made}
        snapshot_late_ms = int(policy.snapshot_late_h * HOUR_MS)
        cells = chain(
            view_cells(db, made, served, files, snapshot_late_ms),
            table_cells(offline, external(views), served),
            window_cells(db, definition, served, int(policy.window_late_s * 1000)),
        )
        key_of = _key_of(definition, views, served)
        found = judge(cells, features, policy.skew_share, UncountableRequests(lost, key_of))
    return SkewReport(
        model=definition.name,
        from_ms=served[0].event_ms if served else None,
        to_ms=served[-1].event_ms if served else None,
        population=sampled.population,
        sampled=len(served),
        unreadable=max(lost, sampled.unreadable),  # most of the sample's are in `lost` too
        share=policy.skew_share,
        features=found,
    )


def _key_of(
    definition: ModelDefinition, views: Sequence[FeatureView], served: Sequence[DecisionReads]
) -> Callable[[Cell], Key]:
    """Function from a cell to the key whose requests its feature counts."""
    keys = {one.decision_id: one.keys for one in served}
    entities = {name: view.entity for view in views for name in view.feature_names}
    entities |= {window.name: window.entity for window in definition.windows}
    return lambda cell: keys[cell.decision_id][entities[cell.feature]]


def _readable_reads(
    db: duckdb.DuckDBPyConnection, served: Sequence[DecisionReads]
) -> tuple[DecisionReads, ...]:
    """The reads whose own request could be read; the others are counted as unreadable."""
    db.register("taken_", pa.table({"request_id": [one.decision_id for one in served]}))
    found = db.sql("SELECT request_id FROM events SEMI JOIN taken_ USING (request_id)").fetchall()
    db.unregister("taken_")
    there = {request_id for (request_id,) in found}
    return tuple(one for one in served if one.decision_id in there)


def _keys(definition: ModelDefinition, served: Sequence[DecisionReads]) -> dict[str, set[Key]]:
    """Request field → keys whose requests are needed."""
    return {field: {one.keys[e] for one in served} for e, field in definition.entities.items()}


def _reach(
    definition: ModelDefinition, views: Sequence[FeatureView], served: Sequence[DecisionReads]
) -> int:
    """Event time of the first record on which any of the decisions depends."""
    first_ms = min(one.event_ms for one in served)
    starts = [first_ms]
    for view in request_views(views):
        oldest_ms = (first_ms - view.ttl_ms) // DAY_MS * DAY_MS
        rows = [ms for one in served if (ms := one.times.get(view.name)) is not None]
        starts.append(reach_ms(view, min([oldest_ms, *rows]))[0])
    for series, _ in series_of(definition.windows, definition.entities):
        starts.append(first_ms - (series.retained + 1) * series.tile_ms)
    return min(starts)
