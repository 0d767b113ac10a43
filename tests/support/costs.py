"""The cost of decisions by a matrix, as the thresholds found are judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlplatform.model.policies.decision_scale import LabelCosts

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]


def mean_cost(
    places: NDArray[np.integer[Any]],
    y: Labels,
    costs: Sequence[LabelCosts],
    weight: Floats | None = None,
) -> float:
    """The average cost of a request, in the currency of the costs.

    Args:
        places: of each request's outcome among the costs, from 0. y: its label, 0 or 1.
        weight: by how much each request counts; None for 1 each.
    """
    matrix = np.array([[cost.negative, cost.positive] for cost in costs])
    return float(np.average(matrix[places, y], weights=weight))
