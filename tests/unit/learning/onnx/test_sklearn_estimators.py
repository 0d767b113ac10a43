"""Estimators of scikit-learn score in ONNX as they do fitted, or are refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    BaggingClassifier,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from mlplatform.learning.onnx.explainer import make_explainer
from mlplatform.learning.onnx.onnx_file import OnnxFile
from mlplatform.learning.onnx.sklearn import fitted, fitted_regressor
from mlplatform.learning.training.fit_check import gap_problem
from mlplatform.runtime.errors import ConfigUnusable

RANDOM = np.random.default_rng(3)
FULL = RANDOM.gamma(2.0, 1.0, (1500, 4)).astype(np.float32)
FULL[:, 3] = RANDOM.integers(0, 5, 1500)
X = np.where(RANDOM.random(FULL.shape) < 0.1, np.float32(np.nan), FULL)
ROWS = np.concatenate([np.full((1, 4), np.nan, np.float32), X])
Y = (RANDOM.random(1500) < 0.1 + 0.6 * (FULL[:, 0] > 2)).astype(np.int8)
CLASS = np.digitize(FULL[:, 0], [1.0, 2.0]).astype(np.int8)
WEIGHTS = 1.0 + 4 * (FULL[:, 1] > 2)
BOOSTED = HistGradientBoostingClassifier(max_iter=5, random_state=1)


def filled(*steps: Any) -> Any:
    return make_pipeline(SimpleImputer(strategy="median"), *steps)


CLASSIFIERS = [
    DecisionTreeClassifier(max_depth=5, random_state=1),
    RandomForestClassifier(10, max_depth=6, random_state=1),
    ExtraTreesClassifier(10, max_depth=6, random_state=1),
    filled(RandomForestClassifier(10, max_depth=6, random_state=1)),
    filled(GradientBoostingClassifier(n_estimators=10, random_state=1)),
    filled(StandardScaler(), LogisticRegression()),
    filled(StandardScaler(), MLPClassifier((6,), max_iter=20, random_state=1)),
    filled(BOOSTED),
    CalibratedClassifierCV(BOOSTED, cv=2),
]


def names(estimator: Any) -> str:
    steps = [step for _, step in getattr(estimator, "steps", [("", estimator)])]
    return " and ".join(type(step).__name__ for step in steps)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("classifier", CLASSIFIERS, ids=names)
def test_a_classifier_with_weights_scores_alike_also_where_values_are_missing(
    classifier: Any,
) -> None:
    made = fitted(classifier, X, Y, WEIGHTS)
    found = OnnxFile(made.onnx(), inputs=4).scores(ROWS)
    assert np.abs(found - made.scores(ROWS)).max() < 1e-5
    assert np.ptp(found) > 0.1


@pytest.mark.parametrize("classifier", CLASSIFIERS[:4], ids=names)
def test_trees_give_probabilities_of_classes_alike(classifier: Any) -> None:
    made = fitted(classifier, X, CLASS, WEIGHTS, classes=3)
    found = OnnxFile(made.onnx(), inputs=4, classes=3).scores(ROWS)
    assert np.abs(found - made.scores(ROWS)).max() < 1e-5


@pytest.mark.parametrize(
    "regressor",
    [
        DecisionTreeRegressor(max_depth=5, random_state=1),
        RandomForestRegressor(10, max_depth=6, random_state=1),
        ExtraTreesRegressor(10, max_depth=6, random_state=1),
        filled(StandardScaler(), Ridge()),
    ],
    ids=names,
)
def test_a_regressor_gives_numbers_alike(regressor: Any) -> None:
    made = fitted_regressor(regressor, X, 10.0 * FULL[:, 0], WEIGHTS)
    found = OnnxFile(made.onnx(), inputs=4).scores(ROWS)
    assert np.abs(found - made.scores(ROWS)).max() < 1e-4


def test_a_value_at_a_threshold_takes_the_branch_that_it_takes_fitted() -> None:
    made = fitted(DecisionTreeClassifier(random_state=1), FULL, Y)
    tree = made.classifier.tree_
    near = tree.threshold[tree.feature == 0].astype(np.float32)
    around = [near, np.nextafter(near, np.float32(9)), np.nextafter(near, np.float32(0))]
    rows = np.tile(FULL[:1], (3 * len(near), 1))
    rows[:, 0] = np.concatenate(around)
    found = OnnxFile(made.onnx(), inputs=4).scores(rows)
    np.testing.assert_array_equal(found, made.scores(rows).astype(np.float32))


def test_weights_reach_the_last_step_of_a_pipeline() -> None:
    even, uneven = (
        fitted(filled(LogisticRegression()), X, Y, weights).scores(ROWS)
        for weights in (None, 1.0 + 9.0 * Y)
    )
    assert uneven.mean() > even.mean() + 0.1


def test_a_random_forest_has_exact_reasons() -> None:
    made = fitted_regressor(RandomForestRegressor(5, max_depth=4, random_state=1), X, FULL[:, 0])
    content = made.onnx()
    model = OnnxFile(content, inputs=4)
    explained = make_explainer(content, model, background=X, rows=ROWS)
    assert explained.attribution.method == "tree_shap", explained.attribution.why


@pytest.mark.parametrize(
    ("classifier", "told"),
    [
        (LogisticRegression(), "LogisticRegression.*no missing values.*SimpleImputer"),
        (filled(KNeighborsClassifier()), "KNeighborsClassifier.*takes no weights"),
        (filled(RidgeClassifier()), "RidgeClassifier.*no probabilities.*predict_proba"),
        (
            HistGradientBoostingClassifier(categorical_features=[3]),
            "HistGradientBoostingClassifier.*categorical_features.*its place",
        ),
        (VotingClassifier([("a", BOOSTED)], voting="soft"), "VotingClassifier.*`mean`.*compose"),
        (StackingClassifier([("a", BOOSTED)]), "StackingClassifier.*`stacked`.*compose"),
    ],
    ids=["no NaN", "no weights", "no probabilities", "categorical splits", "voting", "stacking"],
)
def test_what_would_score_otherwise_is_refused_by_name(classifier: Any, told: str) -> None:
    with pytest.raises(ConfigUnusable, match=told):
        fitted(classifier, X, Y, WEIGHTS)


def test_what_has_no_onnx_form_is_refused_by_name() -> None:
    made = fitted(
        make_pipeline(SimpleImputer(add_indicator=True), StandardScaler(), LogisticRegression()),
        X,
        Y,
    )
    with pytest.raises(ConfigUnusable, match="LogisticRegression: skl2onnx can't convert it"):
        made.onnx()


def test_a_gap_says_whether_missing_values_are_its_reason() -> None:
    made = fitted(BaggingClassifier(DecisionTreeClassifier(max_depth=3), 3, random_state=1), X, Y)
    found, expected = OnnxFile(made.onnx(), inputs=4).scores(ROWS), made.scores(ROWS)
    told = gap_problem(found, expected, ROWS, limit=1e-5)
    assert "where values are missing, and agrees where none is" in told
    assert "SimpleImputer" in told
    assert gap_problem(expected, expected, ROWS, limit=1e-5) == ""
    assert "missing" not in gap_problem(expected + 0.1, expected, ROWS, limit=1e-5)
