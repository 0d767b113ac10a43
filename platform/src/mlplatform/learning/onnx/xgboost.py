"""Models of XGBoost for training: raw scores or numbers, and the same as ONNX."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.onnx.boosted_trees import FittedTrees, Split, fit_on_one_thread, tree_sum
from mlplatform.learning.onnx.ensembles import Ensemble
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


def fitted(
    classifier: Any,
    x: NDArray[np.float32],
    y: NDArray[Any],
    weights: NDArray[np.float64] | None = None,
) -> FittedTrees:
    """The classifier or regressor, fitted, whose ONNX form scores float32 rows as it does.

    Args:
        classifier: an XGBClassifier or XGBRegressor that is not fitted yet; without `n_jobs` it
            takes one thread.
        weights: weight of each row; None means that all rows count equally.

    Raises:
        ConfigInvalid: the classifier is not a sum over trees that ONNX can hold; the message names
            its parameter.
    """
    if classifier.missing is None or not math.isnan(classifier.missing):
        raise ConfigInvalid("XGBClassifier: missing", classifier.missing, "NaN, as inputs have it")
    fit_on_one_thread(classifier, x, y, weights)
    model = json.loads(classifier.get_booster().save_raw("json"))
    return FittedTrees(classifier, trees(model), x.shape[1])


def trees(model: Mapping[str, Any]) -> Ensemble:
    """The trees of a model as XGBoost saves it.

    Source: XGBoost, Introduction to Model IO, JSON Schema; a value goes left below the threshold.

    Raises:
        ConfigInvalid: the model is not a sum of trees for two classes or for a number; the message
            names the parameter.
    """
    learner = model["learner"]
    booster, objective = learner["gradient_booster"], learner["objective"]["name"]
    if booster["name"] != "gbtree":
        raise ConfigInvalid("XGBClassifier: booster", booster["name"], "gbtree")
    if objective not in LINKS:
        raise ConfigInvalid("XGBClassifier: objective", objective, " or ".join(LINKS))
    # one number, or since XGBoost 3.1 a list of one, as text
    (start,) = np.atleast_1d(json.loads(learner["learner_model_param"]["base_score"])).tolist()
    roots = [(tree, 0) for tree in booster["model"]["trees"]]
    if (link := LINKS[objective]) == "identity":
        return tree_sum(roots, _node, base=float(start), link=link)
    if not 0 < start < 1:
        wanted = (
            "between 0 and 1; left out, it is the share of positives, if there are both classes"
        )
        raise ConfigInvalid("XGBClassifier: base_score", start, wanted)
    return tree_sum(roots, _node, base=math.log(start / (1 - start)))


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
