"""A regressor gives the same numbers in ONNX as it does fitted, within float32."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import Ridge

from mlplatform.learning.onnx.explainer import make_explainer, score_gap
from mlplatform.learning.onnx.onnx_file import OnnxFile
from mlplatform.learning.onnx.sklearn import fitted_regressor

RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(3000, 4)).astype(np.float32)
Y = 5000 * X[:, 0] - 300 * np.abs(X[:, 1]) + RANDOM.normal(0, 10, len(X))
HOLES = np.where(RANDOM.random(X.shape) < 0.2, np.float32(np.nan), X)
TREES = HistGradientBoostingRegressor(max_iter=30, random_state=1)
QUANTILE = HistGradientBoostingRegressor(loss="quantile", quantile=0.9, max_iter=30, random_state=1)


@pytest.mark.parametrize(
    ("regressor", "rows"),
    [
        (TREES, HOLES),
        (QUANTILE, HOLES),
        (RandomForestRegressor(n_estimators=10, max_depth=6, random_state=1), X),
        (Ridge(), X),
    ],
)
def test_numbers_agree(regressor: object, rows: np.ndarray) -> None:
    made = fitted_regressor(regressor, rows, Y, np.ones(len(rows)))
    expected, found = made.scores(rows), OnnxFile(made.onnx(), inputs=4).scores(rows)
    assert found.shape == expected.shape == (len(rows),)
    assert np.abs(expected).max() > 3000
    assert score_gap(found, expected) < 2e-6
    assert made.onnx() == made.onnx()


def test_boosted_trees_are_explained_by_shares_that_add_up_to_the_number() -> None:
    content = fitted_regressor(TREES, HOLES, Y).onnx()
    model = OnnxFile(content, inputs=4)
    made = make_explainer(content, model, background=HOLES, rows=HOLES[:64])
    assert (made.attribution.method, made.attribution.link) == ("tree_shap", "identity")
    assert abs(made.attribution.base - Y.mean()) < 60
