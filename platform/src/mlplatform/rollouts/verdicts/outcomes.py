"""What matured labels say about two arms that answered at the same time: the slow gates.

Labels come days later, so a promotion is provisional until the last canary step, in which
customers were split at random, can be judged by what became of the payments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlplatform.rollouts.verdicts.statistics import clustered_share
from mlplatform.rollouts.verdicts.verdict import Gate, values_of
from mlplatform.rollouts.verdicts.window import ALERTS, ordered, present, scored_flags

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class OutcomeWindow:
    """One arm's answers with what became of them; one number per customer, in one order."""

    arm: str
    frauds: tuple[int, ...]
    missed: tuple[int, ...]
    alerts: tuple[int, ...]
    false_alerts: tuple[int, ...]

    @property
    def units(self) -> int:
        return len(self.frauds)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Both arms of a finished generation.

    Args:
        immature: answers that may still get a label.
        silent: no label of any decision has arrived since the generation's last answer.
    """

    challenger: OutcomeWindow
    champion: OutcomeWindow
    immature: int
    silent: bool


def outcomes(
    decisions: pa.Table,
    labels: pa.Table,
    *,
    generation: int,
    maturity_ms: int,
    now_event_ms: int,
) -> Outcomes:
    """The answers of a generation joined to the labels that have arrived.

    The last label of a decision counts; after `maturity_ms` no label means genuine.
    """
    columns = ordered(decisions, generation)
    frauds_by_id = _labels(labels, now_event_ms)
    kept = (columns["kind"] == "decision") & present(columns["arm"]) & present(columns["unit"])
    kept &= scored_flags(columns)
    fraud = np.array([frauds_by_id.get(i, 0) == 1 for i in columns["decision_id"]], dtype=bool)
    alert = np.isin(columns["decision"], ALERTS)
    unknown = np.array([i not in frauds_by_id for i in columns["decision_id"]], dtype=bool)
    immature = kept & unknown & (columns["event_ms"] + maturity_ms > now_event_ms)

    def window(arm: str) -> OutcomeWindow:
        mine = kept & (columns["arm"] == arm)
        units, inverse = np.unique(columns["unit"][mine].astype(np.int64), return_inverse=True)

        def per_unit(flags: Any) -> tuple[int, ...]:
            counts = np.bincount(inverse, weights=flags[mine], minlength=len(units))
            return tuple(counts.astype(np.int64).tolist())

        return OutcomeWindow(
            arm,
            frauds=per_unit(fraud),
            missed=per_unit(fraud & ~alert),
            alerts=per_unit(alert),
            false_alerts=per_unit(alert & ~fraud),
        )

    last_ms = int(columns["event_ms"][kept].max()) if kept.any() else 0
    arrived = labels.column("event_ms").to_numpy()
    silent = not ((arrived > last_ms) & (arrived <= now_event_ms)).any()
    return Outcomes(window("challenger"), window("champion"), int(immature.sum()), silent)


def outcome_gates(seen: Outcomes, *, error_share: float) -> list[Gate]:
    """Whether the new version proves worse at either mistake than the one it replaced.

    Its interval must lie wholly above the other arm's; with few frauds neither says much, and
    then nothing is proven against it. Answers without a mature label are INCONCLUSIVE, and so is
    silence: where labels have stopped coming, none does not mean genuine.
    """
    if not (seen.challenger.units and seen.champion.units):
        return [Gate("labels", "INCONCLUSIVE", "the last canary step is not in the log", {})]
    if seen.immature:
        reason = f"{seen.immature} answers of the last canary step have no mature label yet"
        return [Gate("labels", "INCONCLUSIVE", reason, {"immature": seen.immature})]
    if seen.silent:
        reason = "no label has arrived since the last canary step: labels have stopped coming"
        return [Gate("labels", "INCONCLUSIVE", reason, {})]
    new, old = seen.challenger, seen.champion
    return [
        _compared("missed_fraud", "let {} frauds through",
                  (new.missed, new.frauds), (old.missed, old.frauds), error_share),
        _compared("false_alerts", "raised {} alerts on genuine payments",
                  (new.false_alerts, new.alerts), (old.false_alerts, old.alerts), error_share),
    ]  # fmt: skip


Counted = tuple[tuple[int, ...], tuple[int, ...]]


def _compared(name: str, what: str, new: Counted, old: Counted, error_share: float) -> Gate:
    # two intervals that miss on one side with half the error share each
    mine, other = (
        clustered_share(np.array(hits), np.array(trials), error_share=error_share)
        for hits, trials in (new, old)
    )
    counts = [f"{sum(hits):,} of {sum(trials):,}" for hits, trials in (new, old)]
    seen = f"{what.format(counts[0])} (the version before it: {counts[1]})"
    worse = mine.low > other.high
    prefixed = {f"champion_{key}": value for key, value in values_of(other).items()}
    return Gate(name, "UNHEALTHY" if worse else "HEALTHY", seen, values_of(mine) | prefixed)


def _labels(table: pa.Table, now_event_ms: int) -> dict[str, int]:
    names = ("event_ms", "writer", "seq", "decision_id", "label")
    rows: list[tuple[Any, ...]] = list(
        zip(*(table.column(name).to_pylist() for name in names), strict=True)
    )
    known = sorted(row for row in rows if row[0] <= now_event_ms and row[4] is not None)
    return {decision_id: label for *_, decision_id, label in known}
