"""How the model of defaults is fitted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.onnx.sklearn import FittedClassifier, fitted

# AUC on 6,000 of UCI's 30,000 clients, fitted to 18,000 others, means of four drawings: these
# settings 0.7823; the template's 80 trees of 8 leaves 0.7805; these without the ratios 0.7787.
SETTINGS = {
    "max_iter": 250,
    "learning_rate": 0.03,
    "max_leaf_nodes": 10,
    "min_samples_leaf": 80,
    "l2_regularization": 20.0,
    "early_stopping": False,
}


def fit(
    x: NDArray[np.float32],
    y: NDArray[np.int8],
    *,
    seed: int,
    weight: NDArray[np.float64] | None = None,
) -> FittedClassifier:
    """Boosted trees that take missing values (NaN) as they are; same rows, same model."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return fitted(HistGradientBoostingClassifier(random_state=seed, **SETTINGS), x, y, weight)
