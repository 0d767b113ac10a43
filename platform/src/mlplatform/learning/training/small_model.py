"""The scorecard in every bundle beside its model: few inputs, binned, and added up.

It must be roughly right on whatever is known. So each input is cut into bins with points of their
own: no outlier, missing value or odd scale changes the sum by more than its points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.training.calibration import (
    NO_PLACES,
    KnownScores,
    SegmentPlaces,
    fit_calibration,
    fit_segments,
)
from mlplatform.model.policies.decision_scale import DecisionPolicy
from mlplatform.model.policies.small_model import Characteristic, SmallModel
from mlplatform.model.policies.training import SmallModelPolicy

Floats = NDArray[np.float64]
Labels = NDArray[np.int8]

SMOOTHING = 0.5  # cases of either label added to every bin, against infinite odds
RIDGE = 1.0
ITERATIONS = 50
DIGITS = 4  # of points: finer than needed, coarser than differences of machines


@dataclass(frozen=True, slots=True)
class BinnedInput:
    """An input cut into bins; bin `len(cuts) + 1` holds missing values."""

    name: str
    cuts: tuple[float, ...]
    bins: NDArray[np.intp]

    @property
    def count(self) -> int:
        return len(self.cuts) + 2


@dataclass(frozen=True, slots=True)
class Scorecard:
    """Points without a calibration, fitted on the days to learn from."""

    base: float
    characteristics: tuple[Characteristic, ...]

    def scores(self, x: NDArray[np.float32], names: Sequence[str]) -> Floats:
        """Raw scores of rows; the same as the gateway's, row by row."""
        odds = np.full(len(x), self.base)
        for c in self.characteristics:
            column = x[:, names.index(c.input)].astype(np.float64)
            odds += np.array([*c.points, c.missing])[_bins(column, c.cuts)]
        odds = np.clip(odds, -700, 700)
        return np.asarray(1.0 / (1.0 + np.exp(-odds)))


def fit_scorecard(
    x: NDArray[np.float32], y: Labels, names: Sequence[str], policy: SmallModelPolicy
) -> Scorecard:
    """The scorecard of the inputs that tell most by themselves; the same rows give the same points.

    Bins are at the quantiles of the rows with label 1 and of all rows: positives are few and sit in
    the tails, where quantiles of all rows alone would cut nothing.
    """
    binned = [_binned(x[:, i].astype(np.float64), y, n, policy.bins) for i, n in enumerate(names)]
    value = [_information(b, y) for b in binned]
    best = sorted(range(len(binned)), key=lambda i: (-value[i], i))[: policy.inputs]
    chosen = [binned[i] for i in sorted(best)]
    weights = _logistic(chosen, y.astype(np.float64))
    characteristics = []
    start = 1
    for b in chosen:
        points = [round(float(w), DIGITS) for w in weights[start : start + b.count]]
        characteristics.append(Characteristic(b.name, b.cuts, tuple(points[:-1]), points[-1]))
        start += b.count
    return Scorecard(round(float(weights[0]), DIGITS), tuple(characteristics))


def small_model(
    card: Scorecard,
    raw: Floats,
    y: Labels,
    decision: DecisionPolicy,
    *,
    every: Floats | None = None,
    places: SegmentPlaces = NO_PLACES,
) -> SmallModel:
    """The scorecard with a calibration and thresholds of its own, in each segment as well.

    Args:
        raw: its raw scores, with labels, on days to which it was not fitted.
        every: its raw scores of all requests of those days, from which thresholds by shares are
            taken; None if every request has a known outcome.
        places: the segments in which all requests and those with labels lie.
    """
    calibration = fit_calibration(raw, y)
    known = calibration.probabilities(raw)
    found = fit_segments(
        decision,
        known if every is None else calibration.probabilities(every),
        KnownScores(known, y),
        places,
    )
    names = [segment.name for segment in decision.thresholds.segments]
    return SmallModel(
        schema="scorecard/1",
        minimum_present=(len(card.characteristics) + 1) // 2,
        base=card.base,
        characteristics=card.characteristics,
        calibration=calibration,
        thresholds=found.whole,
        segment_thresholds=dict(zip(names, found.segments, strict=True)),
    )


def _binned(column: Floats, y: Labels, name: str, bins: int) -> BinnedInput:
    cuts: set[float] = set()
    for values in (column[np.isfinite(column)], column[np.isfinite(column) & (y == 1)]):
        if len(values):
            shares = np.linspace(0, 1, bins + 1)[1:-1]
            cuts |= set(np.quantile(values, shares, method="lower").tolist())
    # A cut at the smallest value of all would leave an empty bin below it.
    lowest = float(np.nanmin(column)) if np.isfinite(column).any() else np.inf
    kept = tuple(sorted(c for c in cuts if c > lowest))
    return BinnedInput(name, kept, _bins(column, kept))


def _bins(column: Floats, cuts: Sequence[float]) -> NDArray[np.intp]:
    found = np.searchsorted(np.array(cuts), column, side="right")
    return np.where(np.isnan(column), len(cuts) + 1, found)


def _information(b: BinnedInput, y: Labels) -> float:
    """Information value: how differently the two labels are spread over the bins.

    Source: Siddiqi, Credit Risk Scorecards (2006), chapter 6.
    """
    good = np.bincount(b.bins[y == 0], minlength=b.count) + SMOOTHING
    bad = np.bincount(b.bins[y == 1], minlength=b.count) + SMOOTHING
    good, bad = good / good.sum(), bad / bad.sum()
    return float(np.sum((bad - good) * np.log(bad / good)))


def _logistic(inputs: Sequence[BinnedInput], y: Floats) -> Floats:
    """Intercept and one weight a bin, by Newton's steps with a ridge on the weights.

    Every row has one bin of each input, so the normal equations are sums over cells of pairs of
    inputs: a table look-up, not a product of matrices with a column a bin.
    """
    starts = np.cumsum([1, *(b.count for b in inputs)])
    size = int(starts[-1])
    weights = np.zeros(size)
    share = float(np.clip(y.mean(), 1e-9, 1 - 1e-9))
    weights[0] = np.log(share / (1 - share))
    places = [np.zeros(len(y), np.intp), *(starts[i] + b.bins for i, b in enumerate(inputs))]
    ridge = np.full(size, RIDGE)
    ridge[0] = 1e-9
    for _ in range(ITERATIONS):
        odds = sum((weights[place] for place in places), np.zeros(len(y)))
        p = 1.0 / (1.0 + np.exp(-np.clip(odds, -700, 700)))
        gradient = _sums(places, y - p, size) - ridge * weights
        step: NDArray[Any] = np.linalg.solve(
            _crossed(places, np.maximum(p * (1 - p), 1e-9), size) + np.diag(ridge), gradient
        )
        weights = weights + step / max(1.0, float(np.max(np.abs(step))))
        if np.max(np.abs(step)) < 1e-9:
            break
    return weights


def _sums(places: Sequence[NDArray[np.intp]], values: Floats, size: int) -> Floats:
    total = np.zeros(size)
    for place in places:
        total += np.bincount(place, values, minlength=size)
    return total


def _crossed(places: Sequence[NDArray[np.intp]], values: Floats, size: int) -> Floats:
    total = np.zeros(size * size)
    for one in places:
        for other in places:
            total += np.bincount(one * size + other, values, minlength=size * size)
    return total.reshape(size, size)
