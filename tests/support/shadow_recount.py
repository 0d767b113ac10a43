"""What labels say of a shadow phase, recounted from all its records at once.

Tests hold to it what is kept of the phase and read in portions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tests.support.delays import delay_curve

from mlplatform.decisions.records.last_labels import dated_labels, in_order
from mlplatform.decisions.records.record import LABEL_VALUES
from mlplatform.model.policies.decision_scale import EARLIER_HIDE, Task
from mlplatform.rollouts.verdicts.delays import ArrivedShare, arrived_share
from mlplatform.rollouts.verdicts.facts import Columns, Flags, columns_of, scored_flags
from mlplatform.rollouts.verdicts.hidden_outcomes import PartialOutcomes
from mlplatform.rollouts.verdicts.outcomes import (
    LABELS,
    LabelledClasses,
    LabelledNumbers,
    Outcomes,
)
from mlplatform.rollouts.verdicts.statistics import ClusterSums, cluster_sums


def outcomes(
    decisions: pa.Table,
    labels: pa.Table,
    *,
    generation: int,
    version: int,
    maturity_ms: int,
    now_event_ms: int,
    hides: Sequence[str] = EARLIER_HIDE,
    propensities: Mapping[str, float] | None = None,
    step_ms: int = 1,
) -> Outcomes:
    """The pairs of a shadow generation joined to the labels that have arrived.

    The last label of a decision counts; after `maturity_ms` no label means negative, but for a
    request whose decision hides its outcome. Where one was drawn to be let through or not, those
    let through stand for all that were drawn, and a label of one that was not says nothing.

    Args:
        hides: decisions after which no positive label can come.
        propensities: by decision, the chance with which such a request was let through.
        step_ms: ages and delays are counted in whole steps of it.
    """
    columns, copies = _pairs(decisions, generation, version, "score")
    known = dated_labels(labels, until_ms=now_event_ms)
    ids, made_ms = columns["decision_id"], _whole(columns["event_ms"], step_ms)
    age_ms = _whole(now_event_ms, step_ms) - made_ms
    chance = np.array([(propensities or {}).get(i, 0.0) for i in ids], dtype=np.float64)
    hiding = np.isin(columns["decision"], list(hides))
    labelled = _in(ids, known)
    seen = ~hiding | (labelled & (chance == 0.0))
    immature = seen & ~labelled & (age_ms < maturity_ms)
    label = np.array([known[i][1] if i in known else -1 for i in ids], dtype=np.int64)
    arrived = np.array([known[i][0] if i in known else -1 for i in ids], dtype=np.int64)
    came, arrived_shares = np.ones(len(ids)), dict[str, ArrivedShare]()
    for value, name in enumerate(LABELS):
        delay_ms = np.maximum(_whole(arrived, step_ms) - made_ms, 0)
        curve = delay_curve(age_ms[seen], np.where(label == value, delay_ms, -1)[seen])
        ages = (age_ms[seen & ~immature], None)
        if step_ms > 1:
            ages = tuple(n[::-1] for n in np.unique(ages[0], return_counts=True))
        if (found := arrived_share(curve, *ages)) is not None:
            arrived_shares[name] = found
            if value == 1:
                share = curve.share(age_ms)
                came = np.where(share > 0, share, 1.0)
    kept = ~immature
    champion = columns["score"][kept].astype(np.float64)
    times = in_order(labels).column("event_ms").to_numpy()
    last_ms = int(made_ms.max()) + step_ms - 1 if len(ids) else 0
    return Outcomes(
        requests=PartialOutcomes(
            unit=columns["unit"][kept],
            positive=(seen & (label == 1))[kept],
            seen=seen[kept],
            chance=np.where(chance > 0.0, chance, seen)[kept],
            guess=np.clip(champion, 0.0, 1.0),
            came=came[kept],
        ),
        challenger=np.array([copies[i] for i in ids[kept]], dtype=np.float64),
        champion=champion,
        immature=int(immature.sum()),
        silent=not ((times > last_ms) & (times <= now_event_ms)).any(),
        arrived_shares=arrived_shares,
    )


def labelled_requests(
    decisions: pa.Table,
    labels: pa.Table,
    *,
    task: Task,
    generation: int,
    version: int,
    maturity_ms: int,
    now_event_ms: int,
    step_ms: int = 1,
) -> LabelledClasses | LabelledNumbers:
    """The pairs of a shadow generation joined to the classes or numbers of their labels.

    The last label of a decision counts. A request without one tells nothing, however old it is.
    """
    column = LABEL_VALUES[task]
    columns, copies = _pairs(decisions, generation, version, column)
    known = dated_labels(labels, until_ms=now_event_ms, task=task)
    ids, kind = columns["decision_id"], columns[column].dtype
    labelled = _in(ids, known)
    made_ms = _whole(columns["event_ms"], step_ms)
    age_ms = _whole(now_event_ms, step_ms) - made_ms
    times = in_order(labels, task).column("event_ms").to_numpy()
    last_ms = int(made_ms.max()) + step_ms - 1 if len(ids) else 0
    unit = columns["unit"][labelled]
    challenger = np.array([copies[i] for i in ids[labelled]], dtype=kind)
    champion = columns[column][labelled]
    truth = np.array([known[i][1] for i in ids[labelled]], dtype=kind)
    immature = int((~labelled & (age_ms < maturity_ms)).sum())
    silent = not ((times > last_ms) & (times <= now_event_ms)).any()
    if task == "real":
        return LabelledNumbers(unit, challenger, champion, truth, immature, silent)
    customers = np.unique(unit)
    counts = [
        [(challenger != truth)[own].sum(), own.sum(), (champion != truth)[own].sum(), own.sum()]
        for own in (unit == customer for customer in customers)
    ]
    sums = cluster_sums(np.array(counts, dtype=np.int64).reshape(-1, 4))
    return LabelledClasses(ClusterSums.of(sums), immature, silent)


def _whole(at_ms: Any, step_ms: int) -> Any:
    """The start of the steps in which these times lie."""
    return at_ms // step_ms * step_ms


def _pairs(
    decisions: pa.Table, generation: int, version: int, column: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The champion's decisions that a shadow copy followed; by decision, the copy's value of a
    column."""
    columns = _ordered(decisions, generation)
    copied = (columns["kind"] == "shadow") & (columns["version"] == version)
    copied &= np.isfinite(columns["score"])
    copies = dict(zip(columns["decision_id"][copied], columns[column][copied], strict=True))
    decided = (columns["kind"] == "decision") & (columns["arm"] == "champion")
    decided &= columns["has_unit"] & scored_flags(columns)
    decided &= _in(columns["decision_id"], copies)
    return {name: values[decided] for name, values in columns.items()}, copies


def _ordered(table: pa.Table, generation: int) -> Columns:
    """The generation's records but for voided decisions', by (event_ms, writer, seq)."""
    columns = columns_of(table)
    voided = dict.fromkeys(columns["decision_id"][columns["kind"] == "void"])
    kept = columns["generation"] == generation
    if voided:
        kept &= ~_in(columns["decision_id"], voided)
    columns = {name: values[kept] for name, values in columns.items()}
    order = np.lexsort((columns["seq"], columns["writer"].astype(str), columns["event_ms"]))
    return {name: values[order] for name, values in columns.items()}


def _in(ids: npt.NDArray[Any], known: dict[str, Any]) -> Flags:
    return np.array([i in known for i in ids], dtype=bool)
