"""Differences between the decisions of two bundles about the same requests: pure, from arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mlplatform.learning.validation.replay_result import ReplayResult
from mlplatform.learning.validation.statistics import share_band
from mlplatform.model.policies.decision_scale import DecisionScale, Quantity
from mlplatform.rollouts.whatif.known_labels import known_labels, label_measures
from mlplatform.rollouts.whatif.report import (
    ClassChange,
    NumberDifferences,
    PredictedDisagreement,
    Segment,
    Share,
    TopChanges,
    WhatIf,
)
from mlplatform.rollouts.whatif.requests import (
    Flags,
    Floats,
    InputBands,
    Integers,
    OutcomeLabels,
    Requests,
)
from mlplatform.runtime.errors import Refused
from mlplatform.runtime.units import DAY_MS

QUANTILES: Final = {
    "least": 0.0, "p1": 0.01, "p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95,
    "p99": 0.99, "most": 1.0,
}  # fmt: skip
"""The reported quantiles of the differences of numbers."""


@dataclass(frozen=True, slots=True)
class DisagreementLimits:
    """The limits of disagreement in shadow, beyond the share that was predicted.

    Args:
        tolerance: share up to which shadow is passed; None if shadow has no such gate.
        limit: share above which a challenger is stopped.
    """

    tolerance: float | None
    limit: float


def check_comparable(reference: DecisionScale, candidate: DecisionScale) -> None:
    """Raises where there is no request that both could decide alike.

    Raises:
        Refused: tasks or units differ; the error names both.
    """
    if reference.task != candidate.task:
        raise Refused(
            f"the task of the reference is {reference.task} and that of the candidate "
            f"{candidate.task}: a replay compares bundles of one task"
        )
    one, other = reference.number, candidate.number
    if one is not None and other is not None and one.unit != other.unit:
        raise Refused(
            f"the reference gives numbers in {one.unit} and the candidate in {other.unit}: a "
            "replay compares numbers of one unit"
        )


def what_if(requests: Requests, limits: DisagreementLimits) -> WhatIf:
    """Counts, shares and outcomes of both bundles.

    Args:
        requests: requests that both bundles have decided; at least one.

    Raises:
        Refused: the bundles decide different kinds of things.
    """
    one, other = requests.reference, requests.candidate
    check_comparable(one.scale, other.scale)
    flips = one.changed(other)
    assert flips is not None, "units were compared before"
    has_alerts = bool(one.scale.alerts or other.scale.alerts)
    labels = requests.labels
    return WhatIf(
        requests=len(requests),
        customers=len(np.unique(requests.unit)),
        from_ms=int(requests.event_ms.min()),
        to_ms=int(requests.event_ms.max()) + 1,
        flips=_share(flips, requests),
        segments=tuple(_segments(requests, flips, has_alerts=has_alerts)),
        disagreement=_disagreement(requests, flips, limits),
        decisions=_by_outcome(one, other),
        changes=_by_class(one, other) if one.scale.by_class else None,
        top=_top(requests),
        differences=None
        if one.scale.number is None
        else _differences(one.scale.number, one.scores, other.scores),
        reference_alerts=_share(one.alerts, requests) if has_alerts else None,
        candidate_alerts=_share(other.alerts, requests) if has_alerts else None,
        both_alerts=int((one.alerts & other.alerts).sum()) if has_alerts else None,
        known=known_labels(requests, labels) if isinstance(labels, OutcomeLabels) else None,
        measured=None if isinstance(labels, OutcomeLabels) else label_measures(requests, labels),
    )


def _share(flags: Flags, requests: Requests, of: Flags | slice = slice(None)) -> Share:
    """The share of some requests, and of a coming day's.

    Args:
        of: flags of the requests that form the whole; by default all.
    """
    flags = flags[of]
    count, share = int(flags.sum()), float(flags.mean())
    band = share_band(flags, requests.unit[of], requests.event_ms[of] // DAY_MS)
    return Share(count, share) if band is None else Share(count, share, band.low, band.high)


def _disagreement(
    requests: Requests, flips: Flags, limits: DisagreementLimits
) -> PredictedDisagreement | None:
    """The share that `comparison.disagreement_gate` holds a challenger to."""
    one, other = requests.reference.alerts, requests.candidate.alerts
    by_alerts = requests.reference.scale.task == "binary"
    trials = one | other if by_alerts else np.ones(len(requests), bool)
    if not trials.any():
        return None
    found = _share(flips, requests, trials)
    tolerance = limits.tolerance
    return PredictedDisagreement(
        trials=int(trials.sum()),
        count=found.count,
        share=found.share,
        stops=min(1.0, found.share + limits.limit),
        low=found.low,
        high=found.high,
        passes=None if tolerance is None else min(1.0, found.share + tolerance),
    )


def _cells(one: ReplayResult, other: ReplayResult) -> Integers:
    """Requests by the reference's decision and the candidate's."""
    names, others = len(one.scale.names), len(other.scale.names)
    codes = one.decisions.astype(np.int64) * others + other.decisions
    return np.bincount(codes, minlength=names * others).reshape(names, others)


def _by_outcome(one: ReplayResult, other: ReplayResult) -> dict[str, dict[str, int]] | None:
    """None of classes, of which there are many, and where there is one outcome."""
    if one.scale.by_class or len(one.scale.names) == len(other.scale.names) == 1:
        return None
    rows = zip(one.scale.names, _cells(one, other).tolist(), strict=True)
    return {name: dict(zip(other.scale.names, row, strict=True)) for name, row in rows}


def _by_class(one: ReplayResult, other: ReplayResult) -> tuple[ClassChange, ...]:
    cells = _cells(one, other)
    found = (
        ClassChange(mine, theirs, int(count), float(count / len(one.decisions)))
        for mine, row in zip(one.scale.names, cells, strict=True)
        for theirs, count in zip(other.scale.names, row, strict=True)
        if mine != theirs and count
    )
    return tuple(sorted(found, key=lambda change: -change.requests))


def _top(requests: Requests) -> TopChanges | None:
    if requests.tops is None:
        return None
    one, other = requests.tops
    return TopChanges(one.shape[1], _share((one != other).any(axis=1), requests))


def _differences(number: Quantity, one: Floats, other: Floats) -> NumberDifferences | None:
    """None where no request has a number of both."""
    moved = other - one
    there = moved[np.isfinite(moved)]
    if not len(there):
        return None
    quantiles = np.quantile(there, list(QUANTILES.values())).tolist()
    return NumberDifferences(
        unit=number.unit,
        tolerance=number.tolerance,
        mean=float(there.mean()),
        mean_absolute=float(np.abs(there).mean()),
        lower=int((there < -number.tolerance).sum()),
        higher=int((there > number.tolerance).sum()),
        quantiles=dict(zip(QUANTILES, quantiles, strict=True)),
        without=len(moved) - len(there),
    )


def _segments(requests: Requests, flips: Flags, *, has_alerts: bool) -> Iterator[Segment]:
    one, other = requests.reference, requests.candidate
    for name, bands in requests.bands.items():
        alerts = [_in_bands(bands, arm.alerts) if has_alerts else None for arm in (one, other)]
        found = zip(
            _bounds(bands),
            _in_bands(bands).tolist(),
            _in_bands(bands, flips).tolist(),
            *(_or_none(bands, counts) for counts in (*alerts, _mean_moves(requests, bands))),
            strict=True,
        )
        for (above, upto, value), count, flipped, mine, theirs, moved in found:
            if count:
                yield Segment(name, above, upto, count, flipped, value, mine, theirs, moved)


def _bounds(bands: InputBands) -> list[tuple[float | None, float | None, str | None]]:
    """Bounds of missing values, then of each band."""
    missing = (None, None, None)
    if bands.words is not None:
        return [missing, *((None, None, word) for word in bands.words)]
    edges = bands.edges
    return [missing, *((a, b, None) for a, b in zip((None, *edges), (*edges, None), strict=True))]


def _in_bands(bands: InputBands, flags: Flags | None = None) -> Integers:
    counts = np.bincount(bands.codes + 1, weights=flags, minlength=bands.count + 1)
    return counts.astype(np.int64)


def _mean_moves(requests: Requests, bands: InputBands) -> Floats | None:
    """How far numbers moved on average, by band; NaN where no request has a number of both."""
    if requests.reference.scale.number is None:
        return None
    moved = requests.candidate.scores - requests.reference.scores
    there = np.isfinite(moved)
    codes = bands.codes[there] + 1
    sums = np.bincount(codes, weights=moved[there], minlength=bands.count + 1)
    counts = np.bincount(codes, minlength=bands.count + 1)
    means: Floats = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return means


def _or_none(bands: InputBands, values: Any) -> list[Any]:
    if values is None:
        return [None] * (bands.count + 1)
    return [None if value != value else value for value in values.tolist()]
