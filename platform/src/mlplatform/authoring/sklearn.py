"""Models of scikit-learn, fitted to a data set, whose ONNX form scores as they do."""

from __future__ import annotations

from typing import Any

from mlplatform.authoring import Dataset
from mlplatform.learning.onnx import sklearn as exporter
from mlplatform.learning.onnx.sklearn import FittedClassifier, FittedRegressor

__all__ = ["FittedClassifier", "FittedRegressor", "fitted", "fitted_regressor"]


def fitted(classifier: Any, dataset: Dataset) -> FittedClassifier:
    """The classifier or pipeline, fitted to the rows with their weights, on one thread.

    Args:
        classifier: a classifier, or a pipeline that ends with one, that is not fitted yet and that
            skl2onnx can convert.

    Raises:
        InputInvalid: a class has no row.
        ConfigInvalid: the estimator takes no weights or no missing values, gives no probabilities,
            or has no ONNX form that scores alike; the message names it and the way out.
    """
    classes = len(dataset.classes)
    return exporter.fitted(classifier, dataset.x, dataset.y, dataset.weight, classes=classes)


def fitted_regressor(regressor: Any, dataset: Dataset) -> FittedRegressor:
    """The regressor or pipeline, fitted to the rows with their weights, on one thread.

    Args:
        regressor: a regressor, or a pipeline that ends with one, that is not fitted yet and that
            skl2onnx can convert.

    Raises:
        ConfigInvalid: for the same reasons as in `fitted`.
    """
    return exporter.fitted_regressor(regressor, dataset.x, dataset.y, dataset.weight)
