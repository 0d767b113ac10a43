"""The thresholds at which held-out requests cost least, by a matrix of costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlplatform.model.policies.decision_scale import LabelCosts

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]


def cheapest_thresholds(
    scores: Floats, y: Labels, costs: Sequence[LabelCosts], weight: Floats | None = None
) -> list[float]:
    """The scores from which on each outcome but the first is decided, so that these requests cost
    least.

    Requests of one score get one outcome, and a higher score none that is weaker. Of thresholds
    that cost the same, the highest are chosen. An outcome that makes nothing cheaper begins where
    the next one begins, or above all scores.

    Source: dynamic programming over the distinct scores, one pass for each outcome.

    Args:
        scores: at least one. y: labels, 0 or 1.
        costs: of each outcome, from the weakest to the strongest.
        weight: by how much each request counts; None for 1 each.
    """
    values, place = np.unique(np.asarray(scores, np.float64), return_inverse=True)
    counts = np.ones(len(y)) if weight is None else np.asarray(weight, np.float64)
    positive = np.bincount(place, counts * (y == 1), minlength=len(values))
    negative = np.bincount(place, counts * (y == 0), minlength=len(values))
    # up_to[k][n]: the cost of the n lowest scores if all of them get outcome k
    up_to = [
        np.concatenate([[0.0], np.cumsum(negative * cost.negative + positive * cost.positive)])
        for cost in costs
    ]
    least, ahead = up_to[0], []
    for whole in up_to[1:]:
        ahead.append(least - whole)  # the cost of beginning the outcome at each place
        least = whole + np.minimum.accumulate(ahead[-1])
    begins, end = [], len(values)
    for begin_costs in reversed(ahead):
        until = begin_costs[: end + 1]
        end = int(np.flatnonzero(until == until.min())[-1])
        begins.append(end)
    above = float(np.nextafter(values[-1], np.inf))
    return [float(values[begin]) if begin < len(values) else above for begin in reversed(begins)]
