"""An exporter of the authoring surface fits to a data set what the library fits to its arrays."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression
from tests.support.plain_fit import plain_dataset
from tests.support.train_libraries import needed

from mlplatform.authoring import Dataset, sklearn
from mlplatform.authoring.compose import stacked, stage_dataset
from mlplatform.learning.onnx import sklearn as arrays
from mlplatform.runtime.errors import InputInvalid

ROWS = 400


def labelled(classes: int = 2) -> tuple[Any, Any, Any]:
    random = np.random.default_rng(3)
    x = random.normal(size=(ROWS, 3)).astype(np.float32)
    y = np.digitize(x[:, 0] + random.normal(0, 0.3, ROWS), [0.0, 0.8][: classes - 1])
    return x, y.astype(np.int8), random.uniform(0.5, 2.0, ROWS)


def trees() -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(max_iter=5, random_state=1)


def test_a_classifier_learns_from_rows_labels_and_weights_of_the_data_set() -> None:
    x, y, weight = labelled()
    found = sklearn.fitted(trees(), plain_dataset(x, y, weight=weight))
    assert found.onnx() == arrays.fitted(trees(), x, y, weight).onnx()
    assert found.onnx() != sklearn.fitted(trees(), plain_dataset(x, y)).onnx()


def test_a_model_of_classes_gives_all_probabilities() -> None:
    x, y, _ = labelled(3)
    names = ("low", "middle", "high")
    found = sklearn.fitted(trees(), plain_dataset(x, y, classes=names))
    assert found.scores(x).shape == (ROWS, 3)
    with pytest.raises(InputInvalid, match="no row of class 3"):
        sklearn.fitted(trees(), plain_dataset(x, y, classes=(*names, "highest")))


def test_a_regressor_learns_numbers() -> None:
    x, _, weight = labelled()
    numbers = x[:, 0].astype(np.float64) * 100
    made = HistGradientBoostingRegressor(max_iter=30, random_state=1)
    found = sklearn.fitted_regressor(made, plain_dataset(x, numbers, weight=weight))
    assert np.abs(found.scores(x) - numbers).mean() < 20


@pytest.mark.parametrize(
    ("library", "make"),
    [
        ("xgboost", lambda of: of.XGBClassifier(n_estimators=5, random_state=1)),
        ("lightgbm", lambda of: of.LGBMClassifier(n_estimators=5, random_state=1, verbosity=-1)),
        ("catboost", lambda of: of.CatBoostClassifier(iterations=5, random_seed=1, verbose=False)),
    ],
)
def test_trees_of_a_library_learn_as_from_its_arrays(
    library: str, make: Callable[[Any], Any]
) -> None:
    needed(library)
    of, x_y_weight = importlib.import_module(library), labelled()
    surface = importlib.import_module(f"mlplatform.authoring.{library}")
    of_arrays = importlib.import_module(f"mlplatform.learning.onnx.{library}")
    x, y, weight = x_y_weight
    found = surface.fitted(make(of), plain_dataset(x, y, weight=weight))
    assert found.onnx() == of_arrays.fitted(make(of), x, y, weight).onnx()


def test_a_second_stage_learns_from_scores_with_the_labels_of_its_rows() -> None:
    x, y, weight = labelled()
    dataset = plain_dataset(x, y, weight=weight)
    early, late = dataset.rows(slice(None, 200)), dataset.rows(slice(200, None))
    first = [sklearn.fitted(model, early) for model in (trees(), LogisticRegression())]
    staged: Dataset = stage_dataset(first, late)
    assert staged.inputs == ("stage.0", "stage.1")
    assert staged.x[:, 1] == pytest.approx(first[1].scores(late.x), abs=1e-6)
    assert staged.weight is not None
    assert staged.weight.tolist() == weight[200:].tolist()
    whole = stacked(first, sklearn.fitted(LogisticRegression(), staged))
    assert whole.scores(x).shape == (ROWS,)
