"""Figures of the champion and the variants of an A/B/n test since its variants answer, from the
decision log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.decisions.records.draws import LoggedDraw, logged_draws
from mlplatform.decisions.records.last_labels import LABEL_COLUMNS, last_labels
from mlplatform.decisions.records.port import DecisionLog, RecordQuery
from mlplatform.decisions.records.record import VARIANT
from mlplatform.model.definition import ModelDefinition
from mlplatform.rollouts.drift.slices import slices, void_ids
from mlplatform.rollouts.journal.controls import VariantTestState
from mlplatform.rollouts.verdicts.facts import (
    COLUMNS,
    Columns,
    Flags,
    columns_of,
    excused_flags,
    failed_flags,
    in_buckets,
    scored_flags,
)
from mlplatform.rollouts.verdicts.hidden_outcomes import (
    Metric,
    MetricBounds,
    PartialOutcomes,
    interval,
    precision,
    recall,
)
from mlplatform.rollouts.verdicts.latencies import BINS, EDGES, bins_of
from mlplatform.runtime.units import DAY_MS

ERROR_SHARE: Final = 0.025
"""Chance that one bound of an interval is ever wrong; both bounds together: 0.05."""
LATE_MS: Final = DAY_MS
"""Event time before a test, and after its end, in which its requests are looked for: their own
event times may lie apart from the present one."""


@dataclass(frozen=True, slots=True)
class ShareInterval:
    """A share of matured requests (0-1) with its bounds, which hold at every look and where
    outcomes are hidden."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """The figures of one arm of a test.

    Args:
        arm: "champion" or "variant".
        percent: its present share of the customers; 0 for a variant that was taken out.
        customers: customers with a request that the arm was to answer.
        requests: these requests, without those that the gateway had no capacity or time to ask the
            arm.
        failures: requests that the arm did not answer in time.
        answers: answers that count: of the arm, and not degraded.
        alerts: alerts among them.
        p50_ms, p99_ms: latency of the requests in milliseconds, within 1 %; None without requests.
        matured: answers that are old enough for their labels.
        positives: matured answers with a positive label.
        recall: share of the positives that were alerts; None where no label says it.
        precision: share of the alerts that were positive; None where no label says it.
    """

    arm: str
    version: int
    percent: float
    customers: int
    requests: int
    failures: int
    answers: int
    alerts: int
    p50_ms: float | None
    p99_ms: float | None
    matured: int
    positives: int
    recall: ShareInterval | None
    precision: ShareInterval | None


def compare(
    definition: ModelDefinition, log: DecisionLog, test: VariantTestState, *, now_ms: int
) -> tuple[ArmFigures, ...]:
    """The figures of the champion and then of each variant; empty before the variants answer.

    Args:
        now_ms: event time.
    """
    began = test.answering
    if began is None:
        return ()
    from_ms = began.event_ms - LATE_MS
    to_ms = (now_ms if test.end is None else min(now_ms, test.end.event_ms)) + LATE_MS
    has_draws = definition.exploration is not None
    query = RecordQuery(
        model=definition.name,
        kinds=("decision",),
        from_ms=from_ms,
        to_ms=to_ms,
        columns=(*COLUMNS, "bucket", *(("payload",) if has_draws else ())),
    )
    known: dict[str, int] = {}
    if definition.task == "binary":
        labels = RecordQuery(
            model=definition.name, kinds=("label",), from_ms=from_ms, columns=LABEL_COLUMNS
        )
        known = last_labels(log.read(labels), until_ms=now_ms)
    voided = pa.array(void_ids(log, definition.name, from_ms), pa.string())
    counts = [_ArmCounts() for _ in range(1 + len(_variants_of(test)))]
    for rows in slices(log, query):
        rows = _of_test(rows, test, voided)
        draws = logged_draws(rows) if has_draws else {}
        columns = columns_of(rows)
        for one, mine in zip(counts, _arms(rows, columns, test), strict=True):
            one.add(_Rows(columns, mine, known, draws), definition, now_ms)
    return tuple(_figures(test, counts, definition, is_labelled=bool(known)))


def _variants_of(test: VariantTestState) -> list[tuple[int, tuple[tuple[int, int], ...], float]]:
    """Version, all buckets and present percent of each variant that the test has had."""
    present = {v.arm.service: v for v in test.variants}
    found = []
    for variant in test.started.variants:
        now = present.get(variant.arm.service)
        buckets = variant.buckets if now is None else now.buckets
        found.append((variant.arm.version, buckets, 0.0 if now is None else now.percent))
    return found


def _of_test(rows: pa.Table, test: VariantTestState, voided: pa.Array[Any]) -> pa.Table:
    """The records of the test: of its generations, made before its end, and not voided."""
    assert test.answering is not None
    kept = pc.field("generation") >= test.answering.generation
    if test.end is not None:
        kept &= pc.field("recorded_ms") < test.end.wall_ms
    if len(voided):
        kept &= ~pc.field("decision_id").isin(voided)
    return rows.filter(kept & pc.field("unit").is_valid())


def _arms(rows: pa.Table, columns: Columns, test: VariantTestState) -> list[Flags]:
    """Flags of the champion's records, and of each variant's. A share that was raised leaves a
    customer's earlier requests with the champion."""
    of_variants = columns["arm"] == VARIANT
    variants = [of_variants & in_buckets(rows, buckets) for _, buckets, _ in _variants_of(test)]
    return [columns["arm"] == "champion", *variants]


@dataclass(frozen=True, slots=True)
class _Rows:
    """Records of a slice, of which `mine` are an arm's; with labels and draws by decision."""

    columns: Columns
    mine: Flags
    labels: Mapping[str, int]
    draws: Mapping[str, LoggedDraw]


@dataclass(slots=True)
class _ArmCounts:
    customers: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    requests: int = 0
    failures: int = 0
    answers: int = 0
    alerts: int = 0
    bins: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    matured: int = 0
    outcomes: list[tuple[int, bool, bool, float, float, bool]] = field(default_factory=list)
    """Of each matured answer that an outcome can change: unit, positive, seen, chance, guess,
    flagged."""

    def add(self, rows: _Rows, definition: ModelDefinition, now_ms: int) -> None:
        columns = rows.columns
        asked = rows.mine & ~excused_flags(columns)
        scored = rows.mine & scored_flags(columns)
        alert = np.isin(columns["decision"], definition.decision.alerts)
        self.customers = np.union1d(self.customers, columns["unit"][asked])
        self.requests += int(asked.sum())
        self.failures += int((asked & failed_flags(columns)).sum())
        self.answers += int(scored.sum())
        self.alerts += int((scored & alert).sum())
        latency = columns["latency_us"][asked]
        self.bins += np.bincount(bins_of(latency[latency >= 0]), minlength=BINS)
        if definition.task == "binary":
            old = columns["event_ms"] <= now_ms - definition.label.maturity_days * DAY_MS
            self._mature(rows, np.flatnonzero(scored & old), definition)

    def _mature(
        self, rows: _Rows, places: npt.NDArray[np.int64], definition: ModelDefinition
    ) -> None:
        names = ("decision_id", "unit", "decision", "score")
        values = zip(*(rows.columns[name][places].tolist() for name in names), strict=True)
        decision_policy = definition.decision
        for decision_id, unit, decision, score in values:
            label, draw = rows.labels.get(decision_id), rows.draws.get(decision_id)
            by_model = decision if draw is None else draw.explored_instead_of or decision
            flagged = by_model in decision_policy.alerts
            chance = 1.0 if draw is None or draw.propensity is None else draw.propensity
            hidden = decision in decision_policy.hides_outcome and label is None
            if hidden and draw is None:
                chance = 0.0
            if label == 1 or flagged or hidden:
                guess = score if 0 <= score <= 1 else 0.0
                outcome = (unit, label == 1, not hidden, chance, guess, flagged)
                self.outcomes.append(outcome)
        self.matured += len(places)


def _figures(
    test: VariantTestState,
    counts: Sequence[_ArmCounts],
    definition: ModelDefinition,
    *,
    is_labelled: bool,
) -> list[ArmFigures]:
    of_variants = _variants_of(test)
    left = 100 - sum(percent for _, _, percent in of_variants)
    arms = [
        ("champion", test.started.champion.version, left),
        *((VARIANT, version, percent) for version, _, percent in of_variants),
    ]
    found = []
    for (arm, version, percent), one in zip(arms, counts, strict=True):
        shares = _outcome_shares(one) if is_labelled and one.matured else (0, None, None)
        positives, recalled, precise = shares
        found.append(
            ArmFigures(
                arm=arm,
                version=version,
                percent=percent,
                customers=len(one.customers),
                requests=one.requests,
                failures=one.failures,
                answers=one.answers,
                alerts=one.alerts,
                p50_ms=_quantile_ms(one.bins, 0.5),
                p99_ms=_quantile_ms(one.bins, 0.99),
                matured=one.matured,
                positives=positives,
                recall=recalled,
                precision=precise,
            )
        )
    return found


def _outcome_shares(one: _ArmCounts) -> tuple[int, ShareInterval | None, ShareInterval | None]:
    if not one.outcomes:
        return 0, None, None
    unit, positive, seen, chance, guess, flagged = (
        np.array(values) for values in zip(*one.outcomes, strict=True)
    )
    requests = PartialOutcomes(
        unit.astype(np.int64),
        positive.astype(bool),
        seen.astype(bool),
        chance.astype(np.float64),
        guess.astype(np.float64),
        np.ones(len(unit)),
    )
    flags = flagged.astype(bool)
    return (
        int(positive.sum()),
        _bounded(recall(flags), requests),
        _bounded(precision(flags), requests),
    )


def _bounded(metric: Metric, requests: PartialOutcomes) -> ShareInterval | None:
    found: MetricBounds = interval(metric, requests, ERROR_SHARE)
    if not all(map(math.isfinite, (found.value, found.low, found.high))):
        return None
    return ShareInterval(found.value, max(found.low, 0.0), min(found.high, 1.0))


def _quantile_ms(bins: npt.NDArray[np.int64], quantile: float) -> float | None:
    total = int(bins.sum())
    if not total:
        return None
    place = int(np.searchsorted(np.cumsum(bins), quantile * total, side="left"))
    high = EDGES[min(place + 1, BINS - 1)]
    return float(EDGES[place] + high) / 2000
