"""Models of CatBoost, fitted to a data set, whose ONNX form scores as they do."""

from __future__ import annotations

from typing import Any

from mlplatform.authoring import Dataset
from mlplatform.learning.onnx import catboost as exporter
from mlplatform.learning.onnx.boosted_trees import FittedTrees

__all__ = ["FittedTrees", "fitted"]


def fitted(estimator: Any, dataset: Dataset) -> FittedTrees:
    """The estimator, fitted to the rows with their weights.

    Args:
        estimator: a CatBoostClassifier or CatBoostRegressor that is not fitted yet; without
            `thread_count` it takes one thread.

    Raises:
        InputInvalid: a class has no row.
        ConfigInvalid: the estimator is not a sum over trees that ONNX can hold; the message names
            its parameter.
    """
    classes = len(dataset.classes)
    return exporter.fitted(estimator, dataset.x, dataset.y, dataset.weight, classes=classes)
