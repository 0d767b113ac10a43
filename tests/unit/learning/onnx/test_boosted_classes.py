"""Boosted trees of several classes become ONNX whose probabilities are the library's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.support.train_libraries import needed

from mlplatform.learning.onnx import catboost, lightgbm, xgboost
from mlplatform.learning.onnx.boosted_trees import FittedTrees
from mlplatform.learning.onnx.onnx_file import OnnxFile
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid

FLOAT32_ROUNDING = 2e-6
RANDOM = np.random.default_rng(5)
WHOLE = RANDOM.normal(size=(20_000, 4)).astype(np.float32)
X = np.where(RANDOM.random(WHOLE.shape) < 0.15, np.float32(np.nan), WHOLE)
Y = np.digitize(WHOLE[:, 0] + 0.3 * WHOLE[:, 1], [-0.8, 0.1, 1.6]).astype(np.int8)
BUILDS = [
    ("xgboost", {"n_estimators": 20, "max_depth": 4}),
    ("xgboost", {"n_estimators": 5, "num_parallel_tree": 2, "subsample": 0.5, "base_score": 0.2}),
    ("xgboost", {"n_estimators": 2, "gamma": 1e9}),
    ("lightgbm", {"n_estimators": 20}),
    ("lightgbm", {"n_estimators": 10, "boosting_type": "dart"}),
    ("catboost", {"iterations": 20, "depth": 5}),
    ("catboost", {"iterations": 10, "grow_policy": "Lossguide", "max_leaves": 12}),
]


def built(library: str, settings: dict[str, Any], classes: int) -> FittedTrees:
    y = np.minimum(Y, classes - 1).astype(np.int8)
    weights = np.linspace(0.5, 1.5, len(X))
    module = needed(library)
    if library == "xgboost":
        return xgboost.fitted(module.XGBClassifier(**settings), X, y, weights, classes=classes)
    if library == "lightgbm":
        plain = module.LGBMClassifier(verbosity=-1, **settings)
        return lightgbm.fitted(plain, X, y, weights, classes=classes)
    plain = module.CatBoostClassifier(verbose=False, random_seed=7, **settings)
    return catboost.fitted(plain, X, y, weights, classes=classes)


@pytest.mark.parametrize("classes", [4, 2])
@pytest.mark.parametrize(("library", "settings"), BUILDS, ids=str)
def test_probabilities_are_the_librarys(
    library: str, settings: dict[str, Any], classes: int
) -> None:
    made = built(library, settings, classes)
    expected = made.scores(X)
    found = OnnxFile(made.onnx(), inputs=4, classes=classes).scores(X)
    assert found.shape == expected.shape == (len(X), classes)
    assert np.abs(found - expected).max() <= FLOAT32_ROUNDING
    assert built(library, settings, classes).onnx() == made.onnx()


@pytest.mark.parametrize("library", ["xgboost", "lightgbm", "catboost"])
def test_a_class_without_a_row_is_refused(library: str) -> None:
    """The library would number the classes that have rows, and scores would be of others."""
    with pytest.raises(InputInvalid, match="no row of class 4"):
        built(library, {}, 5)


def test_classes_that_are_no_softmax_of_one_sum_are_refused() -> None:
    with pytest.raises(ConfigInvalid, match="objective is 'multiclassova"):
        built("lightgbm", {"objective": "multiclassova", "n_estimators": 3}, 4)
    with pytest.raises(ConfigInvalid, match="loss_function is 'MultiClassOneVsAll'"):
        built("catboost", {"loss_function": "MultiClassOneVsAll", "iterations": 3}, 4)
    with pytest.raises(ConfigInvalid, match="multi_strategy is 'multi_output_tree'"):
        built("xgboost", {"multi_strategy": "multi_output_tree", "n_estimators": 3}, 4)
