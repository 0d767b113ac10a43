"""Models of LightGBM for training: raw scores or numbers, and the same as ONNX."""

from __future__ import annotations

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
    float32_below,
    of_one_class,
    tree_sum,
)
from mlplatform.learning.onnx.ensembles import Ensemble
from mlplatform.learning.onnx.sklearn import check_classes
from mlplatform.model.bundle import Link
from mlplatform.runtime.errors import ConfigInvalid

Node = Mapping[str, Any]
LINKS: Final[Mapping[str, Link]] = {
    "binary sigmoid:1": "logistic",
    "regression": "identity",
    "regression_l1": "identity",
    "huber": "identity",
    "quantile": "identity",
}
"""Objective → link of the sum of trees."""
CLASSES: Final = "multiclass"
"""Objective of three classes or more; what follows it is their number."""
ZERO = np.float32(1e-35)
"""Largest absolute value that counts as 0 (kZeroThreshold)."""


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
        classifier: an LGBMClassifier or LGBMRegressor that is not fitted yet; without `n_jobs` it
            takes one thread.
        weights: weight of each row; None means that all rows count equally.
        classes: number of classes, if `y` holds their positions, from 0; 0 for one score a row.

    Raises:
        InputInvalid: a class has no row.
        ConfigInvalid: the classifier is not a sum over trees that ONNX can hold; the message names
            its parameter.
    """
    check_classes(y, classes)
    fit_on_one_thread(classifier, x, y, weights)
    return FittedTrees(classifier, trees(classifier.booster_.dump_model()), x.shape[1], classes)


def trees(model: Mapping[str, Any]) -> Ensemble | ClassTrees:
    """The trees of a model as LightGBM dumps it.

    Source: LightGBM, Booster.dump_model; Tree::NumericalDecision in include/LightGBM/tree.h.

    Raises:
        ConfigInvalid: the model is not a sum of trees for classes or for a number; the message
            names the parameter.
    """
    objective = model.get("objective", "a function")  # a custom objective has no name here
    link = LINKS.get(objective.split(" alpha:")[0])
    is_of_classes = objective.split(" ")[0] == CLASSES
    if link is None and not is_of_classes:
        wanted = " or ".join((*LINKS, CLASSES))
        raise ConfigInvalid("LGBMClassifier: objective", objective, wanted)
    if model["average_output"]:
        raise ConfigInvalid(
            "LGBMClassifier: boosting_type", "rf", "gbdt or dart: trees that add up"
        )
    roots = [tree["tree_structure"] for tree in model["tree_info"]]
    if link is None:  # each tree adds to one class, in turn
        count = model["num_tree_per_iteration"]
        numbered = [(at % count, root) for at, root in enumerate(roots)]
        return class_sum(numbered, of_one_class(_node, count), [0.0] * count)
    return tree_sum(roots, _node, link=link)


def _node(node: Node) -> Split[Node] | float:
    if "leaf_value" in node:
        if "leaf_coeff" in node:
            raise ConfigInvalid("LGBMClassifier: linear_tree", True, "False: leaves are numbers")
        return float(node["leaf_value"])
    if node["decision_type"] != "<=":
        wanted = "none: a category is a number here, its place in the vocabulary"
        raise ConfigInvalid("LGBMClassifier: categorical_feature", node["split_feature"], wanted)
    match node["missing_type"]:
        case "NaN":
            missing_left = bool(node["default_left"])
        case "None":  # no value was missing in training: NaN counts as 0
            missing_left = node["threshold"] >= 0
        case other:
            raise ConfigInvalid("LGBMClassifier: zero_as_missing", other, "False: 0 is a number")
    return Split(
        feature=node["split_feature"],
        threshold=_threshold(node["threshold"]),
        missing_left=missing_left,
        left=node["left_child"],
        right=node["right_child"],
    )


def _threshold(value: float) -> np.float32:
    near = float32_below(value)
    if abs(near) > ZERO:
        return near
    return np.nextafter(-ZERO, np.float32(-np.inf)) if value < 0 else ZERO
