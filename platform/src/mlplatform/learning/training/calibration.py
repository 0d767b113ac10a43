"""Tables in a bundle from raw scores to probabilities, and decision thresholds."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.training.costs import cheapest_thresholds
from mlplatform.model.policies.calibration import (
    Calibration,
    are_probabilities,
    held_many,
)
from mlplatform.model.policies.decision_scale import DecisionPolicy
from mlplatform.runtime.errors import InputInvalid

Floats = NDArray[np.floating[Any]]

KNOTS_LOG_ODDS = np.linspace(-12.0, 12.0, 193)
SMALLEST = 1e-9
LEAST_SLOPE = 1e-3
ITERATIONS = 50


def fit_calibration(
    raw: Floats, y: NDArray[np.integer[Any]], weight: Floats | None = None
) -> Calibration:
    """A table that turns raw scores of 0-1 into probabilities, rising wherever the raw score does.

    Two parameters, scale and shift of the log odds, tabulated: with the few positives of some days
    a freer form (isotonic) would learn noise, and its steps would leave no threshold between ties.
    A model that ranks the wrong way round gets an almost flat table, for the gates to refuse.

    Source: Platt, Probabilistic Outputs for Support Vector Machines (1999), on log odds.

    Args:
        weight: weight of each row; None means that all rows weigh 1.

    Raises:
        InputInvalid: there is no positive case or no negative one, or a raw score is outside 0-1 by
            more than rounding.
    """
    if not (0 < int(y.sum()) < len(y)):
        raise InputInvalid("calibration slice", None, f"{int(y.sum())} positives in {len(y)} rows")
    if not are_probabilities(raw):
        found = f"they go from {raw.min():g} to {raw.max():g}"
        problem = f"the model gives raw scores outside 0 to 1: {found}"
        raise InputInvalid("calibration slice", None, problem)
    raw = held_many(raw)
    counts = np.ones(len(y)) if weight is None else weight
    slope, shift = _logistic(_log_odds(raw), y.astype(np.float64), counts)
    x = np.concatenate([[0.0], _probability(KNOTS_LOG_ODDS), [1.0]])
    odds = np.concatenate([[_log_odds(np.zeros(1))[0]], KNOTS_LOG_ODDS, [-np.log(SMALLEST)]])
    values = np.maximum.accumulate(_probability(slope * odds + shift))
    return Calibration(x=tuple(x.tolist()), y=tuple(values.tolist()))


class KnownScores(NamedTuple):
    """Calibrated scores of requests with a known label, 0 or 1, and each one's weight."""

    scores: Floats
    y: NDArray[np.integer[Any]]
    weight: Floats | None = None


def fit_thresholds(
    decision: DecisionPolicy, scores: Floats, known: KnownScores
) -> dict[str, float]:
    """The calibrated score from which on each outcome but the first is decided.

    By shares, the highest scores get the last outcome. Where scores tie, a threshold moves up until
    no more than the share is above it.

    Args:
        scores: calibrated scores (0-1) of all held-out requests, for thresholds by shares.
        known: scores and labels of those requests with a known outcome, for thresholds by costs.
    """
    policy, (first, *others) = decision.thresholds, decision.outcomes
    if policy.scores is not None:
        return {name: policy.scores[name] for name in others}
    if policy.costs is not None:
        costs = [policy.costs[name] for name in (first, *others)]
        begins = cheapest_thresholds(known.scores, known.y, costs, known.weight)
        return dict(zip(others, begins, strict=True))
    shares = policy.shares or {}
    from_there_on = [sum(shares[name] for name in others[place:]) for place in range(len(others))]
    found = (_threshold(scores, share) for share in from_there_on)
    return dict(zip(others, found, strict=True))


def _threshold(scores: Floats, share: float) -> float:
    values, counts = np.unique(scores, return_counts=True)
    above = np.cumsum(counts[::-1])[::-1] / len(scores)
    allowed = np.flatnonzero(above <= share)
    if len(allowed) == 0:
        return float(np.nextafter(values[-1], np.inf))
    return float(values[allowed[0]])


def _logistic(x: Floats, y: Floats, counts: Floats) -> tuple[float, float]:
    """Slope (positive) and intercept of the maximum likelihood, by Newton's steps."""
    center, spread = float(x.mean()), float(x.std()) or 1.0
    z = (x - center) / spread
    slope, shift = 1.0, float(_log_odds(np.array([np.average(y, weights=counts)]))[0])
    for _ in range(ITERATIONS):
        p = _probability(slope * z + shift)
        weight = counts * np.maximum(p * (1 - p), SMALLEST)
        gradient = np.array([np.sum(counts * (y - p) * z), np.sum(counts * (y - p))])
        cross = np.sum(weight * z)
        # a small ridge on the slope: if all positives score above the rest, there is no finite
        # optimum
        hessian = np.array([[np.sum(weight * z * z) + 1e-3, cross], [cross, np.sum(weight)]])
        gradient[0] -= 1e-3 * slope
        step = np.linalg.solve(hessian, gradient)
        size = float(np.max(np.abs(step)))
        slope, shift = slope + step[0] / max(size, 1.0), shift + step[1] / max(size, 1.0)
        if size < 1e-10:
            break
    slope = max(float(slope), LEAST_SLOPE)
    return slope / spread, float(shift) - slope * center / spread


def _log_odds(p: Floats) -> Floats:
    inside = np.clip(np.asarray(p, np.float64), SMALLEST, 1 - SMALLEST)
    return np.log(inside) - np.log1p(-inside)


def _probability(log_odds: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-np.clip(log_odds, -700, 700)))
