"""What matured labels say about two arms that decided the same payments: the slow gate.

In shadow every payment has a score of both arms, so both can be held to the same outcomes: nothing
depends on whose declines hid a fraud, and far fewer frauds tell than between arms that answered
different customers. Labels come days later, so a promotion is provisional until they have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlplatform.rollouts.verdicts.clusters import grouped
from mlplatform.rollouts.verdicts.facts import columns_of, scored_flags
from mlplatform.rollouts.verdicts.statistics import (
    ClusterSums,
    Difference,
    cluster_sums,
    share_difference,
)
from mlplatform.rollouts.verdicts.verdict import Bound, Errors, Gate, number_of, sure
from mlplatform.runtime.figures import percent

if TYPE_CHECKING:
    import pyarrow as pa

    from mlplatform.rollouts.verdicts.facts import Columns, Flags, Integers

NAME = "recall"


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """Payments of one shadow generation that both arms scored; one element per payment.

    Args:
        fraud: by the last label that has arrived.
        immature: payments without a label that may still get one; they are left out of the arrays.
        hidden: payments that were declined and have no label: what they were, nobody can know.
        silent: no label of any decision has arrived since the generation's last payment.
    """

    unit: Integers
    challenger: npt.NDArray[np.float64]
    champion: npt.NDArray[np.float64]
    fraud: Flags
    immature: int
    hidden: int
    silent: bool

    def __len__(self) -> int:
        return len(self.unit)


def outcomes(
    decisions: pa.Table,
    labels: pa.Table,
    *,
    generation: int,
    version: int,
    maturity_ms: int,
    now_event_ms: int,
) -> Outcomes:
    """The pairs of a shadow generation joined to the labels that have arrived.

    The last label of a decision counts; after `maturity_ms` no label means genuine, but for a
    declined payment, of which no fraud can be reported.
    """
    columns = _ordered(decisions, generation)
    known = _labels(labels, now_event_ms)
    copied = (columns["kind"] == "shadow") & (columns["version"] == version)
    copied &= np.isfinite(columns["score"])
    copies = dict(zip(columns["decision_id"][copied], columns["score"][copied], strict=True))
    decided = (columns["kind"] == "decision") & (columns["arm"] == "champion")
    decided &= columns["has_unit"] & scored_flags(columns)
    decided &= _in(columns["decision_id"], copies)
    labelled = _in(columns["decision_id"], known)
    hidden = decided & ~labelled & (columns["decision"] == "decline")
    young = columns["event_ms"] + maturity_ms > now_event_ms
    immature = decided & ~labelled & ~hidden & young
    kept = decided & ~hidden & ~immature
    ids = columns["decision_id"][kept]
    last_ms = int(columns["event_ms"][decided].max()) if decided.any() else 0
    arrived = labels.column("event_ms").to_numpy()
    return Outcomes(
        unit=columns["unit"][kept],
        challenger=np.array([copies[i] for i in ids], dtype=np.float64),
        champion=columns["score"][kept],
        fraud=np.array([known.get(i, 0) == 1 for i in ids], dtype=bool),
        immature=int(immature.sum()),
        hidden=int(hidden.sum()),
        silent=not ((arrived > last_ms) & (arrived <= now_event_ms)).any(),
    )


@dataclass(frozen=True, slots=True)
class Recall:
    """Frauds among the payments that each arm ranks highest, as many as people can look at.

    Args:
        caught, champion_caught: of `frauds`, within the first `alerts` payments of either arm.
        difference: of the two shares of frauds, challenger less champion.
    """

    frauds: int
    alerts: int
    caught: int
    champion_caught: int
    difference: Difference


def recall_at_capacity(seen: Outcomes, *, capacity: float, errors: Errors) -> Recall:
    """Both arms at the same number of alerts, so that neither is better for raising more.

    Args:
        capacity: share (0-1) of payments that may be reviewed or declined.
    """
    alerts = round(capacity * len(seen))
    mine, other = (_highest(scores, alerts) for scores in (seen.challenger, seen.champion))
    hits = (seen.fraud & mine, seen.fraud, seen.fraud & other, seen.fraud)
    by_unit = grouped([seen.unit], np.stack(hits, axis=1).astype(np.int64))
    view = ClusterSums.of(cluster_sums(by_unit.counts))
    return Recall(
        frauds=int(seen.fraud.sum()),
        alerts=alerts,
        caught=int((seen.fraud & mine).sum()),
        champion_caught=int((seen.fraud & other).sum()),
        difference=share_difference([view], stop_error=errors.stop, pass_error=errors.missed),
    )


def outcome_gate(seen: Outcomes, bound: Bound, errors: Errors, *, capacity: float) -> Gate:
    """Whether the new version finds fewer of the frauds than the one before it.

    Payments without a mature label are INCONCLUSIVE, and so is silence: where labels have stopped
    coming, none does not mean genuine.
    """
    if not len(seen) and not seen.immature:
        return Gate(NAME, "INCONCLUSIVE", "no payment that both versions scored is in the log", {})
    if seen.immature:
        reason = f"{seen.immature:,} payments of the shadow phase have no mature label yet"
        return Gate(NAME, "INCONCLUSIVE", reason, {"immature": seen.immature})
    if seen.silent:
        reason = "no label has arrived since the shadow phase: labels have stopped coming"
        return Gate(NAME, "INCONCLUSIVE", reason, {})
    found = recall_at_capacity(seen, capacity=capacity, errors=errors)
    difference = found.difference
    said = (
        f"among its {found.alerts:,} highest scores were {found.caught:,} of {found.frauds:,} "
        f"frauds, among those of the version before it {found.champion_caught:,}"
    )
    if not found.frauds:
        said = f"no fraud among {len(seen):,} payments"
    worst = -difference.pass_low
    told = "" if math.isnan(worst) else f": at most {100 * max(worst, 0):.2g} points fewer"
    if told:
        told += f" with {sure(errors.missed)}"
    allowed = "" if bound.tolerance is None else f" ({100 * bound.tolerance:g} points allowed)"
    unknown = f"; of {seen.hidden:,} declined payments nothing is known" if seen.hidden else ""
    values: dict[str, float | int | None] = {
        "share": number_of(difference.value),
        "low": number_of(difference.pass_low),
        "high": number_of(difference.pass_high),
        "band_low": None if bound.tolerance is None else -bound.tolerance,
        "frauds": found.frauds,
        "alerts": found.alerts,
        "caught": found.caught,
        "champion_caught": found.champion_caught,
        "hidden": seen.hidden,
    }
    verdict = bound.verdict(-difference.stop_high, worst)
    if verdict == "UNHEALTHY":
        told = f": at least {percent(-difference.stop_high)} fewer with {sure(errors.stop)}"
    return Gate(NAME, verdict, f"{said}{told}{allowed}{unknown}", values)


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


def _highest(scores: npt.NDArray[np.float64], count: int) -> Flags:
    flags = np.zeros(len(scores), dtype=bool)
    flags[np.argsort(-scores, kind="stable")[:count]] = True
    return flags


def _in(ids: npt.NDArray[Any], known: dict[str, Any]) -> Flags:
    return np.array([i in known for i in ids], dtype=bool)


def _labels(table: pa.Table, now_event_ms: int) -> dict[str, int]:
    names = ("event_ms", "writer", "seq", "decision_id", "label")
    rows: list[tuple[Any, ...]] = list(
        zip(*(table.column(name).to_pylist() for name in names), strict=True)
    )
    known = sorted(row for row in rows if row[0] <= now_event_ms and row[4] is not None)
    return {decision_id: label for *_, decision_id, label in known}
