"""How much the rows of each class weigh in a fit, so that rare classes are learned too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from mlplatform.learning.training_sets.dataset import LabelledRows
from mlplatform.model.policies.training import ClassWeight

POWERS: Final[Mapping[ClassWeight, float]] = {"square_root": 0.5, "balanced": 1.0}
"""The power of how much rarer a class is than the most frequent one; without one, all weigh 1."""


def class_weights(rows: LabelledRows, policy: ClassWeight) -> dict[int, float]:
    """Class → weight of its rows. The most frequent one has 1."""
    classes, counts = np.unique(rows.y, return_counts=True)
    power = POWERS.get(policy, 0.0)
    weights = (counts.max(initial=0) / counts) ** power
    return {int(one): float(weight) for one, weight in zip(classes, weights, strict=True)}


def weighted(rows: LabelledRows, policy: ClassWeight) -> LabelledRows:
    """The rows with the weights of their classes, times the weights that they have already."""
    if policy not in POWERS:
        return rows
    found = class_weights(rows, policy)
    own = np.array([found[int(one)] for one in np.unique(rows.y)])
    weight = own[np.searchsorted(np.unique(rows.y), rows.y)]
    return replace(rows, weight=weight if rows.weight is None else weight * rows.weight)


def recorded_weights(rows: LabelledRows, policy: ClassWeight) -> dict[str, float]:
    """The weights of the classes by their names among a run's parameters; none where all weigh
    1."""
    if policy not in POWERS:
        return {}
    found = class_weights(rows, policy)
    return {f"class_weight.{place}": float(f"{weight:.6g}") for place, weight in found.items()}
