"""Several models in one graph score as its parts do, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from mlplatform.learning.onnx import compose
from mlplatform.learning.onnx.onnx_file import OnnxFile
from mlplatform.learning.onnx.sklearn import fitted, fitted_regressor
from mlplatform.learning.training.folder import parameters_of
from mlplatform.runtime.errors import ConfigUnusable

RANDOM = np.random.default_rng(7)
X = RANDOM.normal(size=(2000, 4)).astype(np.float32)
X = np.where(RANDOM.random(X.shape) < 0.1, np.float32(np.nan), X)
CHANCE = 1 / (1 + np.exp(2 - 2 * np.nan_to_num(X[:, 0])))
Y = (RANDOM.random(2000) < CHANCE).astype(np.int8)
CLASS = np.digitize(np.nan_to_num(X[:, 0]), [-0.5, 0.5]).astype(np.int8)


def logistic() -> Any:
    return make_pipeline(SimpleImputer(), LogisticRegression())


BOOSTED = fitted(HistGradientBoostingClassifier(max_iter=10, random_state=1), X[:1000], Y[:1000])
FOREST = fitted(RandomForestClassifier(8, max_depth=5, random_state=1), X[:1000], Y[:1000])
LINEAR = fitted(logistic(), X[:1000], Y[:1000])


def in_onnx(model: Any, x: NDArray[np.float32], classes: int = 0) -> NDArray[np.float32]:
    running = OnnxFile(model.onnx(), inputs=x.shape[1], classes=classes)
    return running.scores(x).astype(np.float32)


def test_a_mean_is_that_of_its_parts_to_the_bit() -> None:
    made = compose.mean([BOOSTED, FOREST, LINEAR], weights=[2, 1, 1])
    expected = np.float32(0.5) * in_onnx(BOOSTED, X)
    expected = expected + np.float32(0.25) * in_onnx(FOREST, X)
    expected = expected + np.float32(0.25) * in_onnx(LINEAR, X)
    np.testing.assert_array_equal(in_onnx(made, X), expected)
    assert np.abs(made.scores(X) - expected).max() < 1e-6
    assert made.onnx() == made.onnx()


def test_a_second_stage_takes_the_first_ones_scores_to_the_bit() -> None:
    first = [BOOSTED, FOREST]
    stage = compose.stage_scores(first, X)
    np.testing.assert_array_equal(stage, np.stack([in_onnx(m, X) for m in first], axis=1))
    trees = HistGradientBoostingClassifier(max_iter=20, random_state=1)
    second = fitted(trees, stage[1000:], Y[1000:])
    made = compose.stacked(first, second)
    np.testing.assert_array_equal(in_onnx(made, X), in_onnx(second, stage))
    assert np.abs(made.scores(X) - in_onnx(made, X)).max() < 1e-6


def test_classes_and_numbers_are_composed_too() -> None:
    parts = [
        fitted(HistGradientBoostingClassifier(max_iter=5), X, CLASS, classes=3),
        fitted(logistic(), X, CLASS, classes=3),
    ]
    stage = compose.stage_scores(parts, X)
    assert stage.shape == (len(X), 6)
    second = fitted(LogisticRegression(), stage, CLASS, classes=3)
    for made in (compose.mean(parts), compose.stacked(parts, second)):
        gap = in_onnx(made, X, classes=3) - made.scores(X)
        assert np.abs(gap).max() < 1e-5
    trees = HistGradientBoostingRegressor(max_iter=5)
    numbers = [fitted_regressor(trees, X, 100 * CHANCE), fitted_regressor(trees, X, 90 * CHANCE)]
    summed = compose.mean(numbers)
    np.testing.assert_allclose(in_onnx(summed, X), summed.scores(X), rtol=1e-6)


def test_a_composed_model_can_be_a_part() -> None:
    inner = compose.mean([BOOSTED, LINEAR])
    made = compose.mean([inner, FOREST])
    expected = np.float32(0.5) * in_onnx(inner, X) + np.float32(0.5) * in_onnx(FOREST, X)
    np.testing.assert_array_equal(in_onnx(made, X), expected)


def test_mlflow_shows_the_parameters_of_every_part() -> None:
    told = parameters_of(compose.mean([BOOSTED, FOREST]))
    assert (told["0.max_iter"], told["1.n_estimators"]) == (10, 8)


@pytest.mark.parametrize(
    ("weights", "told"),
    [([1, -1], "2 positive numbers"), ([1.0], "2 positive numbers"), ([1, np.nan], "positive")],
)
def test_weights_that_give_no_mean_are_refused(weights: list[float], told: str) -> None:
    with pytest.raises(ConfigUnusable, match=told):
        compose.mean([BOOSTED, LINEAR], weights=weights)


def test_a_mean_of_one_model_and_a_part_with_tensors_of_its_own_are_refused() -> None:
    with pytest.raises(ConfigUnusable, match="1 models; wanted: 2 to 20 models"):
        compose.mean([BOOSTED])

    class TokenModel:
        def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
            return BOOSTED.scores(x)

        def onnx(self) -> bytes:
            return BOOSTED.onnx().replace(b"inputs", b"tokens")

    with pytest.raises(ConfigUnusable, match=r"takes tokens; wanted: .*without a signature"):
        compose.mean([BOOSTED, TokenModel()]).onnx()


def test_a_first_stage_that_scores_otherwise_in_onnx_is_refused() -> None:
    class UnequalForms:
        def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
            return BOOSTED.scores(x) * 0.9

        def onnx(self) -> bytes:
            return BOOSTED.onnx()

    with pytest.raises(ConfigUnusable, match=r"model 1: its scores in ONNX differ by 0\."):
        compose.stage_scores([BOOSTED, UnequalForms()], X)
