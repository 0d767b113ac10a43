"""Scores and decisions of a bundle for rows, and the rows that another bundle decides otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlplatform.model.policies.decision_scale import DecisionScale


@dataclass(frozen=True, slots=True, eq=False)
class ReplayResult:
    """A bundle's scores of rows, or probabilities by class, and its decisions, by their places
    among `scale.names`."""

    scale: DecisionScale
    scores: NDArray[np.float64]
    decisions: NDArray[np.int8]

    @property
    def alerts(self) -> NDArray[np.bool_]:
        """Marks the rows that get an alert."""
        found: NDArray[np.bool_] = self.scale.alerting(self.decisions)
        return found

    def changed(self, other: ReplayResult) -> NDArray[np.bool_] | None:
        """Marks the rows that the other decides differently; for numbers, those that lie further
        apart than the tolerance. None where the other gives no numbers in this unit."""
        if (number := self.scale.number) is None:
            there: NDArray[np.bool_] = self.decisions != self.scale.places_of(
                other.scale, other.decisions
            )
            return there
        if other.scale.number is None or other.scale.number.unit != number.unit:
            return None
        within = np.abs(self.scores - other.scores) <= number.tolerance
        return ~within
