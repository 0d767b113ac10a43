"""A classifier of several classes scores in ONNX as it does fitted, for each class."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from mlplatform.learning.onnx.onnx_file import OnnxFile
from mlplatform.learning.onnx.sklearn import fitted
from mlplatform.runtime.errors import InputInvalid

RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(3000, 4)).astype(np.float32)
Y = np.digitize(X[:, 0] + 0.3 * X[:, 1], [-0.8, 0.1, 0.9]).astype(np.int8)
TREES = HistGradientBoostingClassifier(max_iter=15, random_state=1)


@pytest.mark.parametrize("classifier", [TREES, LogisticRegression(max_iter=300)])
@pytest.mark.parametrize("classes", [4, 2])
def test_probabilities_agree_and_sum_to_one(classifier: object, classes: int) -> None:
    made = fitted(classifier, X, np.minimum(Y, classes - 1), classes=classes)
    running = OnnxFile(made.onnx(), inputs=4, classes=classes)
    expected, found = made.scores(X), running.scores(X)
    assert found.shape == expected.shape == (len(X), classes)
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(found.sum(axis=1) - 1).max() < 1e-5
    assert made.onnx() == made.onnx()


def test_missing_values_go_the_same_way() -> None:
    holes = np.where(RANDOM.random(X.shape) < 0.2, np.float32(np.nan), X)
    made = fitted(TREES, holes, Y, classes=4)
    gap = np.abs(OnnxFile(made.onnx(), inputs=4, classes=4).scores(holes) - made.scores(holes))
    assert gap.max() < 1e-5


def test_a_class_without_a_row_is_refused() -> None:
    with pytest.raises(InputInvalid, match="no row of class 4"):
        fitted(TREES, X, Y, classes=5)


def test_a_graph_of_another_number_of_classes_is_refused() -> None:
    content = fitted(TREES, X, Y, classes=4).onnx()
    with pytest.raises(InputInvalid, match=r"wanted: 'scores' float32 \[n, 3\]"):
        OnnxFile(content, inputs=4, classes=3)
    with pytest.raises(InputInvalid, match=r"wanted: 'scores' float32 \[n\]"):
        OnnxFile(content, inputs=4)
