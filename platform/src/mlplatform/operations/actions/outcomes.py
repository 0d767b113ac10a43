"""Outcomes of decisions with matured labels: for people and alerts, not for gates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.decisions.records.last_labels import in_order, label_columns
from mlplatform.decisions.records.port import DecisionLog, RecordQuery
from mlplatform.decisions.records.record import Kind
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.policies.decision_scale import DecisionPolicy
from mlplatform.operations.actions.last_results import Outcomes
from mlplatform.runtime.units import DAY_MS, HOUR_MS

_DECISION = ("decision_id", "event_ms", "decision")


def read_outcomes(log: DecisionLog, definition: ModelDefinition, now_ms: int) -> Outcomes:
    """The outcomes of the last matured decisions, over as many windows as drift is judged by.

    Decisions are read window by window, as they are for drift: only those of one window must fit
    into memory.

    Args:
        now_ms: the present event time.
    """
    model, maturity_ms = definition.name, definition.label.maturity_days * DAY_MS
    window_ms, windows = definition.drift.window_h * HOUR_MS, definition.drift.windows
    from_ms = now_ms - maturity_ms - windows * window_ms

    def read(kind: Kind, since: int, to_ms: int | None, columns: tuple[str, ...]) -> pa.Table:
        query = RecordQuery(model=model, kinds=(kind,), from_ms=since, to_ms=to_ms, columns=columns)
        return log.read(query)

    task = definition.task
    labels = read("label", from_ms, now_ms + 1, label_columns(task))
    voids = read("void", from_ms, None, ("decision_id",))

    def window(start_ms: int) -> Outcomes:
        decisions = read("decision", start_ms, start_ms + window_ms, _DECISION)
        policy = definition.decision
        if task != "binary":
            return alert_counts(decisions, in_order(labels, task), voids, policy)
        return outcomes(decisions, labels, voids, maturity_ms=maturity_ms, policy=policy)

    return total([window(from_ms + number * window_ms) for number in range(windows)])


def total(parts: Sequence[Outcomes]) -> Outcomes:
    """The sum of the outcomes of several windows."""
    newest = [p.newest_label_ms for p in parts if p.newest_label_ms is not None]
    return Outcomes(
        matured=sum(p.matured for p in parts),
        positives=sum(p.positives for p in parts),
        alerts=sum(p.alerts for p in parts),
        hits=sum(p.hits for p in parts),
        late=sum(p.late for p in parts),
        newest_label_ms=max(newest, default=None),
    )


def outcomes(
    decisions: pa.Table,
    labels: pa.Table,
    voids: pa.Table,
    *,
    maturity_ms: int,
    policy: DecisionPolicy,
) -> Outcomes:
    """Join matured decisions to their last labels; a decision without a label counts as negative.
    Unlabelled decisions that hide their outcome are left out.

    Args:
        policy: the decisions that hide their outcome, and those that are alerts.
        decisions: columns decision_id, event_ms and decision; all decisions are old enough to be
            mature.
        labels: columns `label_columns`, in any order.
        voids: column decision_id of the decisions that were taken back.
    """
    labels = in_order(labels)
    last = labels.group_by("decision_id", use_threads=False).aggregate(
        [("event_ms", "last"), ("label", "last")]
    )
    kept = ~_is_voided(decisions, voids)
    decisions = decisions.filter(kept).join(last, "decision_id", join_type="left outer")
    decided = decisions["decision"].to_numpy(zero_copy_only=False)
    is_labelled = decisions["label_last"].is_valid().to_numpy()
    decisions = decisions.filter(is_labelled | ~np.isin(decided, policy.hides_outcome))
    positive = _filled(decisions, "label_last") == 1
    arrived = _filled(decisions, "event_ms_last")
    late = positive & (arrived - decisions["event_ms"].to_numpy() > maturity_ms)
    alert = np.isin(decisions["decision"].to_numpy(zero_copy_only=False), policy.alerts)
    return Outcomes(
        matured=decisions.num_rows,
        positives=int(positive.sum()),
        alerts=int(alert.sum()),
        hits=int((alert & positive).sum()),
        late=int(late.sum()),
        newest_label_ms=int(labels["event_ms"].to_numpy().max()) if labels.num_rows else None,
    )


def alert_counts(
    decisions: pa.Table, labels: pa.Table, voids: pa.Table, policy: DecisionPolicy
) -> Outcomes:
    """Counts of matured decisions of a model of classes or numbers, which has no positive outcome.

    Args:
        labels: labels in the order of `in_order`.
    """
    decisions = decisions.filter(~_is_voided(decisions, voids))
    alert = np.isin(decisions["decision"].to_numpy(zero_copy_only=False), policy.alerts)
    newest_ms = int(labels["event_ms"].to_numpy().max()) if labels.num_rows else None
    return Outcomes(decisions.num_rows, 0, int(alert.sum()), 0, 0, newest_ms)


def _is_voided(decisions: pa.Table, voids: pa.Table) -> np.ndarray:
    found = pc.is_in(decisions["decision_id"], value_set=voids["decision_id"])
    return np.asarray(found.to_numpy(), dtype=np.bool_)


def _filled(joined: pa.Table, column: str) -> np.ndarray:
    """The labels, with 0 for a decision without a label."""
    found = joined[column].to_numpy()
    return np.nan_to_num(np.asarray(found, dtype=np.float64)).astype(np.int64)
