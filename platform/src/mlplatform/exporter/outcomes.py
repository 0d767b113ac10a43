"""What became of decisions whose labels are mature: for people and alerts, not for gates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mlplatform.decisions.log import DecisionLog, Span
from mlplatform.decisions.records import Kind
from mlplatform.exporter.measured import Outcomes
from mlplatform.models.definition import ModelDefinition
from mlplatform.rollout.window import ALERTS

if TYPE_CHECKING:
    import pyarrow as pa

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
_DECISION = ("decision_id", "event_ms", "decision")
_NONE: Final = (0, 0)
_LABEL = ("decision_id", "event_ms", "label")


def read_outcomes(log: DecisionLog, definition: ModelDefinition, now_ms: int) -> Outcomes:
    """Of the decisions of as many windows as drift is judged by, the last that are mature.

    Args:
        now_ms: event time.
    """
    model, maturity_ms = definition.name, definition.label.maturity_days * DAY_MS
    until_ms = now_ms - maturity_ms
    from_ms = until_ms - definition.drift.windows * definition.drift.window_h * HOUR_MS

    def read(
        kind: Kind, since: int | None, to_ms: int | None, columns: tuple[str, ...]
    ) -> pa.Table:
        span = Span(model=model, kinds=(kind,), from_ms=since, to_ms=to_ms, columns=columns)
        return log.read(span)

    decisions = read("decision", from_ms, until_ms, _DECISION)
    labels = read("label", from_ms, now_ms + 1, _LABEL)
    voids = read("void", None, None, ("decision_id",))
    return outcomes(decisions, labels, voids, maturity_ms=maturity_ms)


def outcomes(
    decisions: pa.Table, labels: pa.Table, voids: pa.Table, *, maturity_ms: int
) -> Outcomes:
    """Mature decisions joined to their labels; the last label counts, and none means negative.

    Args:
        decisions: decision_id, event_ms, decision; all old enough to be mature.
        labels: decision_id, event_ms (of its arrival), label, in any order.
        voids: decision_id of decisions that never were.
    """
    arrivals = labels["event_ms"].to_numpy()
    known: dict[str, tuple[int, int]] = {}
    for decision_id, at_ms, label in zip(
        _values(labels, "decision_id"), arrivals.tolist(), _values(labels, "label"), strict=True
    ):
        known[decision_id] = max(known.get(decision_id, _NONE), (at_ms, label))
    gone = set(_values(voids, "decision_id"))
    ids = _values(decisions, "decision_id")
    kept = np.array([i not in gone for i in ids], dtype=np.bool_)
    positive = np.array([known.get(i, _NONE)[1] == 1 for i in ids], dtype=np.bool_) & kept
    arrived = np.array([known.get(i, _NONE)[0] for i in ids], dtype=np.int64)
    late = positive & (arrived - decisions["event_ms"].to_numpy() > maturity_ms)
    alert = np.isin(decisions["decision"].to_numpy(zero_copy_only=False), ALERTS) & kept
    return Outcomes(
        matured=int(kept.sum()),
        positives=int(positive.sum()),
        alerts=int(alert.sum()),
        hits=int((alert & positive).sum()),
        late=int(late.sum()),
        newest_label_ms=int(arrivals.max()) if len(arrivals) else None,
    )


def _values(table: pa.Table, column: str) -> list[Any]:
    return table[column].to_pylist()
