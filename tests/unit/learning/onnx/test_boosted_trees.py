"""Boosted trees of other libraries become ONNX that scores as they do, or are refused by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.support.train_libraries import needed

from mlplatform.learning.onnx import catboost, lightgbm, xgboost
from mlplatform.learning.onnx.boosted_trees import (
    FittedTrees,
    Split,
    ensemble_file,
    float32_below,
    tree_sum,
)
from mlplatform.learning.onnx.ensembles import Ensemble, read_ensemble
from mlplatform.learning.onnx.explainer import make_explainer, score_gap
from mlplatform.learning.onnx.onnx_file import OnnxFile
from mlplatform.runtime.errors import ConfigInvalid

INPUTS, ROWS = 6, 100_000
FLOAT32_ROUNDING = 2e-6
"""Of a probability: a few dozen leaves are added up in float32."""
NUMBER_ROUNDING = 2e-6
"""Of a number, as a share of what numbers usually are."""

XGBOOST: Mapping[str, Mapping[str, Any]] = {
    "deep": {"n_estimators": 100, "max_depth": 6},
    "pruned": {"n_estimators": 60, "gamma": 5, "scale_pos_weight": 3, "subsample": 0.7},
    "exact": {"n_estimators": 20, "tree_method": "exact", "base_score": 0.2},
    "forests": {"n_estimators": 10, "num_parallel_tree": 3, "subsample": 0.5},
    "no split": {"n_estimators": 3, "gamma": 1e9},
}
LIGHTGBM: Mapping[str, Mapping[str, Any]] = {
    "wide": {"n_estimators": 100, "num_leaves": 63},
    "dart": {"n_estimators": 40, "boosting_type": "dart"},
    "missing as 0": {"n_estimators": 40, "use_missing": False},
    "unbalanced": {"n_estimators": 40, "is_unbalance": True, "min_child_samples": 3000},
    "no split": {"n_estimators": 3, "min_child_samples": 9000},
}
CATBOOST: Mapping[str, Mapping[str, Any]] = {
    "oblivious": {"iterations": 100, "depth": 6},
    "by depth": {"iterations": 40, "grow_policy": "Depthwise", "min_data_in_leaf": 20},
    "by loss": {"iterations": 40, "grow_policy": "Lossguide", "max_leaves": 20},
    "missing last": {"iterations": 40, "nan_mode": "Max", "auto_class_weights": "Balanced"},
    "from the average": {"iterations": 20, "boost_from_average": True, "loss_function": "Logloss"},
    "nothing learned": {"iterations": 3, "depth": 1, "l2_leaf_reg": 1e12, "random_strength": 0},
}
BUILDS = [
    *(("xgboost", name) for name in XGBOOST),
    *(("lightgbm", name) for name in LIGHTGBM),
    *(("catboost", name) for name in CATBOOST),
]


def rows(seed: int, count: int, holes: float = 0.1) -> NDArray[np.float32]:
    """Amounts, whole numbers, tenths, zeros of both signs beside tiny numbers; the first four
    inputs have holes."""
    random = np.random.default_rng(seed)
    x = np.column_stack([
        random.lognormal(8, 1, count),
        random.integers(0, 50, count),
        random.normal(size=count),
        np.round(random.normal(size=count), 1),
        random.choice([0.0, -0.0, 1e-35, -1e-35, 1e-3, -1e-3], count),
        random.uniform(0, 1, count),
    ]).astype(np.float32)  # fmt: skip
    x[:, :4] = np.where(random.random((count, 4)) < holes, np.float32(np.nan), x[:, :4])
    return x


def labels(x: NDArray[np.float32]) -> NDArray[np.int8]:
    odds = np.nan_to_num(x[:, 2]) + 0.05 * np.nan_to_num(x[:, 1]) - 2 + np.isnan(x[:, 0])
    return (np.random.default_rng(3).random(len(x)) < 1 / (1 + np.exp(-odds))).astype(np.int8)


def at_thresholds(trees: Ensemble, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows whose values are moved to thresholds, and to the float32 below and above them."""
    random, moved = np.random.default_rng(4), x.copy()
    splits = np.flatnonzero((trees.feature >= 0) & (np.abs(trees.threshold) < 1e30))
    for row in moved if len(splits) else ():
        for node in random.choice(splits, 8):
            to = trees.threshold[node]
            near = (to, np.nextafter(to, np.float32(-1e38)), np.nextafter(to, np.float32(1e38)))
            row[trees.feature[node]] = near[random.integers(3)]
    return moved


def build(library: str, name: str, *, weighted: bool = True) -> FittedTrees:
    x = rows(1, 10_000)
    y = labels(x)
    weights = 1.0 + y if weighted else None
    if library == "xgboost":
        classifier = needed(library).XGBClassifier(random_state=7, **XGBOOST[name])
        return xgboost.fitted(classifier, x, y, weights)
    if library == "lightgbm":
        classifier = needed(library).LGBMClassifier(random_state=7, verbosity=-1, **LIGHTGBM[name])
        return lightgbm.fitted(classifier, x, y, weights)
    classifier = needed(library).CatBoostClassifier(random_seed=7, verbose=False, **CATBOOST[name])
    return catboost.fitted(classifier, x, y, weights)


@pytest.fixture(scope="module", params=BUILDS, ids=lambda built: f"{built[0]} {built[1]}")
def built(request: pytest.FixtureRequest) -> FittedTrees:
    return build(*request.param)


def gap(model: FittedTrees, x: NDArray[np.float32]) -> float:
    onnx = OnnxFile(model.onnx(), inputs=INPUTS).scores(x)
    return float(np.abs(onnx - model.scores(x)).max())


def test_a_score_is_the_librarys_within_float32_rounding(built: FittedTrees) -> None:
    """On 100 000 rows with holes, one of holes alone, and on the thresholds themselves."""
    x = np.concatenate([np.full((1, INPUTS), np.nan, np.float32), rows(2, ROWS, holes=0.3)])
    assert gap(built, x) <= FLOAT32_ROUNDING
    assert gap(built, at_thresholds(built.trees, x[:2000])) <= FLOAT32_ROUNDING


def test_its_scores_are_explained_by_its_trees(built: FittedTrees) -> None:
    content, x = built.onnx(), rows(5, 2000)
    file = OnnxFile(content, inputs=INPUTS)
    found = make_explainer(content, file, background=x, rows=at_thresholds(built.trees, x[:256]))
    assert found.attribution.method == "tree_shap", found.attribution.why


REGRESSORS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "xgboost squared": ("xgboost", {"n_estimators": 60}),
    "xgboost absolute": ("xgboost", {"n_estimators": 30, "objective": "reg:absoluteerror"}),
    "xgboost quantile": (
        "xgboost",
        {"n_estimators": 30, "objective": "reg:quantileerror", "quantile_alpha": 0.9},
    ),
    "lightgbm squared": ("lightgbm", {"n_estimators": 60}),
    "lightgbm absolute": ("lightgbm", {"n_estimators": 30, "objective": "mae"}),
    "lightgbm quantile": ("lightgbm", {"n_estimators": 30, "objective": "quantile", "alpha": 0.9}),
    "lightgbm huber": ("lightgbm", {"n_estimators": 30, "objective": "huber"}),
    "catboost squared": ("catboost", {"iterations": 60}),
    "catboost absolute": ("catboost", {"iterations": 30, "loss_function": "MAE"}),
    "catboost quantile": ("catboost", {"iterations": 30, "loss_function": "Quantile:alpha=0.9"}),
}


def regressor(name: str) -> FittedTrees:
    library, settings = REGRESSORS[name]
    x = rows(1, 10_000)
    y = 900 * np.nan_to_num(x[:, 2]) + 40 * np.nan_to_num(x[:, 1])
    weights = 1.0 + (y > 0)
    module = needed(library)
    if library == "xgboost":
        return xgboost.fitted(module.XGBRegressor(random_state=7, **settings), x, y, weights)
    if library == "lightgbm":
        made = module.LGBMRegressor(random_state=7, verbosity=-1, **settings)
        return lightgbm.fitted(made, x, y, weights)
    made = module.CatBoostRegressor(random_seed=7, verbose=False, **settings)
    return catboost.fitted(made, x, y, weights)


@pytest.mark.parametrize("name", REGRESSORS)
def test_a_number_is_the_librarys_within_float32_rounding_and_explained(name: str) -> None:
    made, x = regressor(name), rows(2, 20_000, holes=0.3)
    content = made.onnx()
    file = OnnxFile(content, inputs=INPUTS)
    for tried in (x, at_thresholds(made.trees, x[:2000])):
        expected = made.scores(tried)
        assert np.abs(expected).max() > 1000
        assert score_gap(file.scores(tried), expected) <= NUMBER_ROUNDING
    found = make_explainer(content, file, background=x[:2000], rows=x[:256])
    assert (found.attribution.method, found.attribution.link) == ("tree_shap", "identity")


@pytest.mark.parametrize(
    ("library", "name"), [("xgboost", "pruned"), ("lightgbm", "dart"), ("catboost", "oblivious")]
)
def test_the_same_rows_and_seed_give_the_same_bytes(library: str, name: str) -> None:
    first = build(library, name).onnx()
    assert build(library, name).onnx() == first
    assert build(library, name, weighted=False).onnx() != first


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"booster": "dart"}, "XGBClassifier: booster is 'dart'"),
        ({"booster": "gblinear"}, "XGBClassifier: booster is 'gblinear'"),
        ({"objective": "binary:hinge"}, "XGBClassifier: objective is 'binary:hinge'"),
        ({"missing": 0.0}, "XGBClassifier: missing is 0.0"),
        ({"base_score": 1 - 1e-9}, "XGBClassifier: base_score is 1.0"),
        ({"early_stopping_rounds": 3}, "XGBClassifier: early_stopping_rounds is 3"),
        (
            {"enable_categorical": True, "feature_types": ["q", "c", *"qqqq"]},
            "XGBClassifier: enable_categorical is True",
        ),
    ],
)
def test_an_xgboost_model_that_is_no_plain_sum_is_refused(
    settings: dict[str, Any], said: str
) -> None:
    x = rows(1, 2000)
    classifier = needed("xgboost").XGBClassifier(n_estimators=5, **settings)
    with pytest.raises(ConfigInvalid, match=said):
        xgboost.fitted(classifier, x, labels(x))


def squared(y: Any, scores: Any) -> tuple[Any, Any]:
    return scores - y, np.ones_like(scores)


@pytest.mark.filterwarnings("ignore:categorical_feature keyword")
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"boosting_type": "rf", "subsample": 0.5, "subsample_freq": 1},
            "LGBMClassifier: boosting_type is 'rf'",
        ),
        ({"objective": "cross_entropy"}, "LGBMClassifier: objective is 'cross_entropy'"),
        ({"sigmoid": 2.0}, "LGBMClassifier: objective is 'binary sigmoid:2'"),
        ({"zero_as_missing": True}, "LGBMClassifier: zero_as_missing is 'Zero'"),
        ({"categorical_feature": [1]}, "LGBMClassifier: categorical_feature is 1"),
        ({"linear_tree": True}, "LGBMClassifier: linear_tree is True"),
        ({"early_stopping_rounds": 3}, "LGBMClassifier: early_stopping_rounds is 3"),
        ({"pred_early_stop": True}, "LGBMClassifier: pred_early_stop is True"),
        ({"objective": squared}, "LGBMClassifier: objective is 'a function'"),
    ],
)
def test_a_lightgbm_model_that_is_no_plain_sum_is_refused(
    settings: dict[str, Any], said: str
) -> None:
    x = rows(1, 2000, holes=0.0)
    classifier = needed("lightgbm").LGBMClassifier(n_estimators=5, verbosity=-1, **settings)
    with pytest.raises(ConfigInvalid, match=said):
        lightgbm.fitted(classifier, x, labels(x))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss_function": "Focal:focal_alpha=0.5;focal_gamma=1"}, "loss_function is 'Focal'"),
        ({"loss_function": "MultiClassOneVsAll"}, "loss_function is 'MultiClassOneVsAll'"),
        ({"early_stopping_rounds": 3}, "early_stopping_rounds is 3"),
    ],
)
def test_a_catboost_model_that_is_no_plain_sum_is_refused(
    settings: dict[str, Any], said: str
) -> None:
    x = rows(1, 2000, holes=0.0)
    classifier = needed("catboost").CatBoostClassifier(iterations=5, verbose=False, **settings)
    with pytest.raises(ConfigInvalid, match=f"CatBoostClassifier: {said}"):
        catboost.fitted(classifier, x, labels(x))


def test_a_fit_of_catboost_writes_nothing_where_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert build("catboost", "by loss").parameters["allow_writing_files"] is False
    assert list(tmp_path.iterdir()) == []


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(width=32, allow_nan=False))
def test_a_rounded_threshold_parts_float32_values_as_the_exact_one(
    threshold: float, value: float
) -> None:
    rounded = float32_below(threshold)
    assert math.isfinite(rounded) or rounded < 0
    for beside in (np.float32(value), rounded, np.nextafter(rounded, np.float32(1))):
        if math.isfinite(beside):
            assert (beside <= rounded) == (float(beside) <= threshold)


@given(st.integers(0, 2**32 - 1))
def test_trees_are_read_back_from_their_file_as_they_were(seed: int) -> None:
    random = np.random.default_rng(seed)

    def read(depth: int) -> Split[int] | float:
        if depth == 0 or random.random() < 0.3:
            return float(np.float32(random.normal()))
        threshold = np.float32(random.integers(-2, 3))
        return Split(
            int(random.integers(3)), threshold, random.random() < 0.5, depth - 1, depth - 1
        )

    made = tree_sum([4, 4, 0], read, base=0.25)
    content = ensemble_file(made, inputs=3)
    back = read_ensemble(content)
    for field in dataclasses.fields(Ensemble):
        assert np.array_equal(getattr(back, field.name), getattr(made, field.name)), field.name
    x = random.integers(-3, 4, (50, 3)).astype(np.float32)
    x[random.random(x.shape) < 0.2] = np.nan
    assert np.allclose(OnnxFile(content, inputs=3).scores(x), made.scores(x), atol=1e-6)
