"""Models of XGBoost for training: raw scores or numbers, and the same as ONNX."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.onnx.boosted_trees import (
    ClassTrees,
    FittedTrees,
    Split,
    class_sum,
    fit_on_one_thread,
    of_one_class,
    tree_sum,
)
from mlplatform.learning.onnx.ensembles import Ensemble
from mlplatform.learning.onnx.sklearn import check_classes
from mlplatform.model.bundle import Link
from mlplatform.runtime.errors import ConfigInvalid

Tree = Mapping[str, Any]
LINKS: Final[Mapping[str, Link]] = {
    "binary:logistic": "logistic",
    "reg:squarederror": "identity",
    "reg:absoluteerror": "identity",
    "reg:pseudohubererror": "identity",
    "reg:quantileerror": "identity",
}
"""Objective → link of the sum of trees."""
CLASSES: Final = "multi:softprob"
"""Objective of three classes or more."""


def fitted(
    classifier: Any,
    x: NDArray[np.float32],
    y: NDArray[Any],
    weights: NDArray[np.float64] | None = None,
    *,
    classes: int = 0,
) -> FittedTrees:
    """The classifier or regressor, fitted, whose ONNX form scores float32 rows as it does.

    Args:
        classifier: an XGBClassifier or XGBRegressor that is not fitted yet; without `n_jobs` it
            takes one thread.
        weights: weight of each row; None means that all rows count equally.
        classes: number of classes, if `y` holds their positions, from 0; 0 for one score a row.

    Raises:
        InputInvalid: a class has no row.
        ConfigInvalid: the classifier is not a sum over trees that ONNX can hold; the message names
            its parameter.
    """
    if classifier.missing is None or not math.isnan(classifier.missing):
        raise ConfigInvalid("XGBClassifier: missing", classifier.missing, "NaN, as inputs have it")
    check_classes(y, classes)
    fit_on_one_thread(classifier, x, y, weights)
    model = json.loads(classifier.get_booster().save_raw("json"))
    return FittedTrees(classifier, trees(model), x.shape[1], classes)


def trees(model: Mapping[str, Any]) -> Ensemble | ClassTrees:
    """The trees of a model as XGBoost saves it.

    Source: XGBoost, Introduction to Model IO, JSON Schema; a value goes left below the threshold.

    Raises:
        ConfigInvalid: the model is not a sum of trees for classes or for a number; the message
            names the parameter.
    """
    learner = model["learner"]
    booster, objective = learner["gradient_booster"], learner["objective"]["name"]
    if booster["name"] != "gbtree":
        raise ConfigInvalid("XGBClassifier: booster", booster["name"], "gbtree")
    if objective not in (*LINKS, CLASSES):
        wanted = " or ".join((*LINKS, CLASSES))
        raise ConfigInvalid("XGBClassifier: objective", objective, wanted)
    # one number, or since XGBoost 3.1 a list with one for each class, as text
    starts = np.atleast_1d(json.loads(learner["learner_model_param"]["base_score"])).tolist()
    roots = [(tree, 0) for tree in booster["model"]["trees"]]
    if objective == CLASSES:
        return _of_classes(model, starts)
    (start,) = starts
    if (link := LINKS[objective]) == "identity":
        return tree_sum(roots, _node, base=float(start), link=link)
    if not 0 < start < 1:
        wanted = (
            "between 0 and 1; left out, it is the share of positives, if there are both classes"
        )
        raise ConfigInvalid("XGBClassifier: base_score", start, wanted)
    return tree_sum(roots, _node, base=math.log(start / (1 - start)))


def _of_classes(model: Mapping[str, Any], starts: list[float]) -> ClassTrees:
    """The trees of three classes or more, each of which adds to one class."""
    learner = model["learner"]
    booster = learner["gradient_booster"]["model"]
    count = int(learner["learner_model_param"]["num_class"])
    if any(int(tree["tree_param"]["size_leaf_vector"]) > 1 for tree in booster["trees"]):
        raise ConfigInvalid(
            "XGBClassifier: multi_strategy", "multi_output_tree", "one_output_per_tree"
        )
    bases = starts if len(starts) == count else starts * count
    roots = [
        (of, (tree, 0)) for of, tree in zip(booster["tree_info"], booster["trees"], strict=True)
    ]
    return class_sum(roots, of_one_class(_node, count), bases)


def _node(place: tuple[Tree, int]) -> Split[tuple[Tree, int]] | float:
    tree, at = place
    condition, left = np.float32(tree["split_conditions"][at]), tree["left_children"][at]
    if left < 0:
        return float(condition)
    if tree["split_type"][at]:
        wanted = "False: a category is a number here, its place in the vocabulary"
        raise ConfigInvalid("XGBClassifier: enable_categorical", True, wanted)
    return Split(
        feature=tree["split_indices"][at],
        threshold=np.nextafter(condition, np.float32(-np.inf)),
        missing_left=bool(tree["default_left"][at]),
        left=(tree, left),
        right=(tree, tree["right_children"][at]),
    )
