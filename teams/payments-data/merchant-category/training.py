"""How the category of a payment is learned."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.onnx.sklearn import FittedClassifier, fitted

SETTINGS = {
    "max_iter": 40,
    "learning_rate": 0.15,
    "max_leaf_nodes": 31,
    "min_samples_leaf": 10,
    "l2_regularization": 5.0,
    "early_stopping": False,
}
"""Leaves are many, as the merchants of a category lie apart among the places of all."""


def fit(
    x: NDArray[np.float32],
    y: NDArray[np.int8],
    *,
    seed: int,
    weight: NDArray[np.float64] | None = None,
    classes: tuple[str, ...],
) -> FittedClassifier:
    """Boosted trees over merchant, amount and hour, which take missing values (NaN) as they are.

    `y` holds places among `classes`, from 0.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    classifier = HistGradientBoostingClassifier(random_state=seed, **SETTINGS)
    return fitted(classifier, x, y, weight, classes=len(classes))
