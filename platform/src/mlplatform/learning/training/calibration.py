"""Tables in a bundle from raw scores to probabilities, and decision thresholds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.training.costs import cheapest_thresholds
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.policies.calibration import (
    UNCHANGED,
    Calibration,
    are_probabilities,
    held_many,
)
from mlplatform.model.policies.classes import ClassChoice
from mlplatform.model.policies.cut_offs import (
    NOWHERE,
    CutOffs,
    RowSegment,
    RowSegments,
    SegmentThresholds,
)
from mlplatform.model.policies.decision_scale import (
    DecisionPolicy,
    ThresholdPolicy,
    ThresholdSegment,
)
from mlplatform.model.segment_rules import threshold_segments
from mlplatform.model.tensors.categories import Vocabularies
from mlplatform.runtime.errors import ConfigUnusable, InputInvalid

Floats = NDArray[np.floating[Any]]

KNOTS_LOG_ODDS = np.linspace(-12.0, 12.0, 193)
SMALLEST = 1e-9
LEAST_SLOPE = 1e-3
ITERATIONS = 50
LEAST = 10
"""Least number of held-out requests behind each threshold of a segment: above it by shares, with
either label by costs."""


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

    def rows(self, chosen: NDArray[np.bool_]) -> KnownScores:
        """The scores and labels of some of the requests."""
        weight = None if self.weight is None else self.weight[chosen]
        return KnownScores(self.scores[chosen], self.y[chosen], weight)


class SegmentPlaces(NamedTuple):
    """The place of the segment in which each held-out request lies, `NOWHERE` for those in none.

    Args:
        every: places of all held-out requests.
        known: places of those with a known outcome.
    """

    every: NDArray[np.int8]
    known: NDArray[np.int8]


NO_PLACES = SegmentPlaces(np.zeros(0, np.int8), np.zeros(0, np.int8))
"""Where requests lie if model.yaml has no segments with thresholds of their own."""


class LearnedThresholds(NamedTuple):
    """The thresholds of requests in no segment, and those of each segment."""

    whole: dict[str, float]
    segments: tuple[dict[str, float], ...] = ()


class HeldOutSegments(NamedTuple):
    """The segments that have thresholds of their own, and where the rows of some days lie."""

    declared: tuple[RowSegment, ...]
    rows: RowSegments
    places: SegmentPlaces

    def thresholds(
        self, found: LearnedThresholds, y: NDArray[Any]
    ) -> tuple[SegmentThresholds, ...]:
        """The segments as a bundle carries them.

        Args:
            y: labels of the rows that teach.
        """
        return tuple(
            SegmentThresholds(
                **msgspec.structs.asdict(segment),
                thresholds=own,
                rows=int((self.places.every == place).sum()),
                positives=int((y[self.places.known == place] == 1).sum()),
            )
            for place, (segment, own) in enumerate(zip(self.declared, found.segments, strict=True))
        )


class LearnedDecision(NamedTuple):
    """The calibration and thresholds that turn raw scores and their rows into decisions."""

    calibration: Calibration
    thresholds: LearnedThresholds
    decider: CutOffs | ClassChoice


def held_out_segments(
    definition: ModelDefinition,
    names: Sequence[str],
    words: Vocabularies,
    x: NDArray[np.floating[Any]],
    taught: NDArray[np.bool_],
    y: NDArray[Any],
) -> HeldOutSegments:
    """The segments that have thresholds of their own, and where rows lie.

    Args:
        names, words: inputs of the bundle and their vocabularies.
        x: the rows of its inputs.
        taught: for each of them, whether it teaches.
        y: labels of those that do.

    Raises:
        ConfigInvalid: the bundle has no such input or word.
        InputInvalid: a segment has too few rows to find its thresholds.
    """
    key, declared = "decision.thresholds.segments", threshold_segments(definition)
    try:
        rows = RowSegments(declared, names, words)
    except ValueError as error:
        wanted = "inputs and words of the bundle whose model is replaced"
        raise ConfigUnusable(f"model.yaml: {key}", str(error), wanted) from error
    every = rows.places(x)
    places = SegmentPlaces(every, every[taught])
    if thin := [*_thin_segments(definition.decision, places, y)]:
        instead = "widen it, give it `scores`, or raise training.holdout_days"
        raise InputInvalid(key, None, f"{'; '.join(thin)}: {instead}")
    return HeldOutSegments(declared, rows, places)


def learned_decision(
    decision: DecisionPolicy,
    raw: Floats,
    taught: NDArray[np.bool_],
    labels: tuple[NDArray[Any], Floats | None],
    segments: HeldOutSegments,
) -> LearnedDecision:
    """A calibration of held-out days, and the thresholds; probabilities of classes and numbers stay
    as they are.

    Args:
        raw: raw scores of all requests of these days.
        taught: for each of them, whether it teaches.
        labels: labels and weights of those that teach.
    """
    scale = decision.scale
    if scale.task == "classes":
        return LearnedDecision(UNCHANGED, LearnedThresholds({}), ClassChoice(scale))
    if scale.task == "real":
        begins = dict(decision.thresholds.scores or {})
        return LearnedDecision(UNCHANGED, LearnedThresholds(begins), CutOffs(scale, begins))
    calibration = fit_calibration(raw[taught], *labels)
    scores = calibration.probabilities(raw)
    found = fit_segments(decision, scores, KnownScores(scores[taught], *labels), segments.places)
    decider = CutOffs(scale, found.whole, segments.rows, found.segments)
    return LearnedDecision(calibration, found, decider)


def fit_segments(
    decision: DecisionPolicy, scores: Floats, known: KnownScores, places: SegmentPlaces
) -> LearnedThresholds:
    """The thresholds of the whole and of each segment, each found from its own requests alone.

    The whole's are found from the requests in no segment, which alone they decide; from all
    requests where those are too few, because such a request may be of any kind.

    Args:
        scores, known: as for `fit_thresholds`.
    """
    policy, outcomes = decision.thresholds, decision.outcomes
    if not policy.segments:
        return LearnedThresholds(fit_thresholds(policy, outcomes, scores, known))
    outside = places.every == NOWHERE, places.known == NOWHERE
    if _lacking(policy, outcomes, int(outside[0].sum()), known.y[outside[1]]):
        outside = np.ones(len(scores), bool), np.ones(len(known.y), bool)
    whole = fit_thresholds(policy, outcomes, scores[outside[0]], known.rows(outside[1]))
    own = (
        fit_thresholds(
            segment, outcomes, scores[places.every == at], known.rows(places.known == at)
        )
        for at, segment in enumerate(policy.segments)
    )
    return LearnedThresholds(whole, tuple(own))


def fit_thresholds(
    policy: ThresholdPolicy | ThresholdSegment,
    outcomes: Sequence[str],
    scores: Floats,
    known: KnownScores,
) -> dict[str, float]:
    """The calibrated score from which on each outcome but the first is decided.

    By shares, the highest scores get the last outcome. Where scores tie, a threshold moves up until
    no more than the share is above it.

    Args:
        scores: calibrated scores (0-1) of all held-out requests that the thresholds are for, for
            thresholds by shares.
        known: scores and labels of those requests with a known outcome, for thresholds by costs.
    """
    first, *others = outcomes
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


def _lacking(
    policy: ThresholdPolicy | ThresholdSegment,
    outcomes: Sequence[str],
    rows: int,
    y: NDArray[np.integer[Any]],
) -> str:
    """The requests that are too few for thresholds by this way, in words; empty if they are
    enough."""
    if policy.shares is not None:
        last = outcomes[-1]
        wanted = math.ceil(LEAST / policy.shares[last] - 1e-9)
        short = f"{rows:,} held-out requests, {wanted:,} wanted, so that {LEAST} of them get {last}"
        return short if rows < wanted else ""
    positives = int((y == 1).sum())
    short = (
        f"{positives:,} positives and {len(y) - positives:,} negatives among its held-out requests "
        f"of known outcome, {LEAST} of each wanted"
    )
    is_short = policy.costs is not None and min(positives, len(y) - positives) < LEAST
    return short if is_short else ""


def _thin_segments(
    decision: DecisionPolicy, places: SegmentPlaces, y: NDArray[np.integer[Any]]
) -> Iterator[str]:
    """The segments with too few held-out requests to find their thresholds, and what they lack.

    Args:
        y: labels of the requests with a known outcome.
    """
    for place, segment in enumerate(decision.thresholds.segments):
        inside = int((places.every == place).sum())
        if lacking := _lacking(segment, decision.outcomes, inside, y[places.known == place]):
            yield f"{segment.name} has {lacking}"


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
