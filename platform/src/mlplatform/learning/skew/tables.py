"""External views: the values that each decision should have read of the imported table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import pyarrow as pa

from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.skew.cells import Cell, Note, nearly_equal
from mlplatform.learning.skew.decision_reads import DecisionReads
from mlplatform.learning.training_sets.join import view_join
from mlplatform.model.features.views import FeatureView
from mlplatform.runtime.clock import SYSTEM_TOLERANCE_MS

SLACK_MS: Final = SYSTEM_TOLERANCE_MS
"""Most milliseconds between a request's event time and its arrival. An import may end within
them."""


def table_cells(
    offline: OfflineTable, views: Sequence[FeatureView], served: Sequence[DecisionReads]
) -> Iterator[Cell]:
    """A cell for every feature of an external view and every decision.

    A value counts as equal if the table had it at the event, `SLACK_MS` before or after it, or when
    the decision was recorded, if that was not further off. Values may be pushed in between.
    """
    for view in views:
        keyed = [(one, one.keys.get(view.entity)) for one in served]
        known = [one for one, key in keyed if key is not None]
        if not known:
            continue
        event_ms = [one.event_ms for one in known]
        times = [[at_ms + by_ms for at_ms in event_ms] for by_ms in (0, -SLACK_MS, SLACK_MS)]
        times.append([_read_ms(one) for one in known])
        for one, *near in zip(
            known, *(_rows(offline, view, known, at) for at in times), strict=True
        ):
            for name in view.feature_names:
                yield _cell(view, one, name, [row[name] for row in near])


def _cell(view: FeatureView, one: DecisionReads, name: str, near: Sequence[float | None]) -> Cell:
    expected, value = near[0], one.features.get(name)
    note: Note | None = None
    if one.features and name not in one.features:
        note = "unserved"
        return Cell(name, one.decision_id, one.event_ms, value, expected, "missing", note=note)
    if any(nearly_equal(value, right) for right in near):
        return Cell(name, one.decision_id, one.event_ms, value, expected, "equal")
    if value is None:
        note = one.gap(view.name)  # type: ignore[assignment]
        return Cell(name, one.decision_id, one.event_ms, value, expected, "missing", note=note)
    return Cell(name, one.decision_id, one.event_ms, value, expected, "different", note="table")


def _read_ms(one: DecisionReads) -> int:
    """The time at which a decision read its features, where wall time is event time."""
    is_near = abs(one.recorded_ms - one.event_ms) <= SLACK_MS
    return one.recorded_ms if is_near else one.event_ms


def _rows(
    offline: OfflineTable, view: FeatureView, served: Sequence[DecisionReads], at_ms: Sequence[int]
) -> list[dict[str, Any]]:
    keys = [one.keys[view.entity] for one in served]
    times = pa.array([ms * 1000 for ms in at_ms], pa.timestamp("us"))
    joined = view_join(offline, [view], pa.table({"event_time": times, view.join_key: keys}))
    numbers = [joined.column(n).cast(pa.float64()) for n in view.feature_names]
    return pa.table(numbers, names=list(view.feature_names)).to_pylist()
