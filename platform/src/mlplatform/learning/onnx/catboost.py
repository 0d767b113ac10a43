"""Models of CatBoost for training: raw scores or numbers, and the same as ONNX."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
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
    tree_sum,
)
from mlplatform.learning.onnx.ensembles import Ensemble
from mlplatform.learning.onnx.sklearn import check_classes
from mlplatform.model.bundle import Link
from mlplatform.runtime.errors import ConfigInvalid, ConfigUnusable

Node = Mapping[str, Any]
MODEL: Final = "model.json"
LINKS: Final[Mapping[str, Link]] = {
    "Logloss": "logistic",
    "CrossEntropy": "logistic",
    "RMSE": "identity",
    "MAE": "identity",
    "Quantile": "identity",
    "Huber": "identity",
}
"""Loss function → link of the sum of trees."""
CLASSES: Final = "MultiClass"
"""Loss function of three classes or more."""
NUMERIC: Final = "FloatFeature"
_MISSING_LEFT: Final = {"AsIs": True, "AsFalse": True, "AsTrue": False}
"""Treatments by which a missing value goes left. A value goes right if it is above a border; with
AsIs, no value was missing in training, and NaN is above none."""


def fitted(
    classifier: Any,
    x: NDArray[np.float32],
    y: NDArray[Any],
    weights: NDArray[np.float64] | None = None,
    *,
    classes: int = 0,
) -> FittedTrees:
    """The classifier or regressor, fitted, whose ONNX form scores float32 rows as it does.

    Nothing is written to the working folder, as CatBoost does by itself.

    Args:
        classifier: a CatBoostClassifier or CatBoostRegressor that is not fitted yet; without
            `thread_count` it takes one thread.
        weights: weight of each row; None means that all rows count equally.
        classes: number of classes, if `y` holds their positions, from 0; 0 for one score a row.

    Raises:
        InputInvalid: a class has no row.
        ConfigInvalid: the classifier is not a sum over trees that ONNX can hold; the message names
            its parameter.
    """
    check_classes(y, classes)
    classifier.set_params(allow_writing_files=False)
    fit_on_one_thread(classifier, x, y, weights, threads="thread_count")
    with tempfile.TemporaryDirectory(prefix="catboost-") as folder:
        file = Path(folder) / MODEL
        classifier.save_model(str(file), format="json")
        model = json.loads(file.read_text())
    return FittedTrees(classifier, trees(model), x.shape[1], classes)


def trees(model: Mapping[str, Any]) -> Ensemble | ClassTrees:
    """The trees of a model, from CatBoost's own file format.

    Source: CatBoost, the JSON format of models (save_model), and its tutorial "Apply model from
    JSON": bit i of a leaf's place says whether the value of split i is above its border.

    Raises:
        ConfigInvalid: the model is not a sum of numeric trees for classes or for a number; the
            message names the parameter.
    """
    params, features = model["model_info"]["params"], model["features_info"]
    loss = params["loss_function"]["type"]
    if loss not in (*LINKS, CLASSES):
        wanted = " or ".join((*LINKS, CLASSES))
        raise ConfigInvalid("CatBoostClassifier: loss_function", loss, wanted)
    for kind in ("categorical", "text", "embedding"):
        if features.get(f"{kind}_features"):
            wanted = "none: a category is a number here, its place in the vocabulary"
            raise ConfigUnusable("CatBoostClassifier", f"it has {kind} features", wanted)
    missing_left = {
        feature["feature_index"]: _MISSING_LEFT[feature["nan_value_treatment"]]
        for feature in features["float_features"]
    }
    scale, biases = model["scale_and_bias"]  # may be written as whole numbers
    roots = (
        (_oblivious(tree["splits"], tree["leaf_values"]) for tree in model["oblivious_trees"])
        if "oblivious_trees" in model
        else model["trees"]
    )

    def read_split(node: Node) -> Split[Node]:
        split = node["split"]
        if split["split_type"] != NUMERIC:
            wanted = f"{NUMERIC}: a category is a number here, its place in the vocabulary"
            raise ConfigInvalid("CatBoostClassifier: split", split["split_type"], wanted)
        return Split(
            feature=split["float_feature_index"],
            threshold=float32_below(split["border"]),
            missing_left=missing_left[split["float_feature_index"]],
            left=node["left"],
            right=node["right"],
        )

    def read(node: Node) -> Split[Node] | float:
        return float(node["value"] * scale) if "value" in node else read_split(node)

    def read_classes(node: Node) -> Split[Node] | Sequence[float]:
        return [v * scale for v in node["value"]] if "value" in node else read_split(node)

    if loss == CLASSES:
        return class_sum(roots, read_classes, [float(bias) for bias in biases])
    (bias,) = biases
    return tree_sum(roots, read, base=float(bias), link=LINKS[loss])


def _oblivious(splits: Sequence[Node], values: Sequence[float]) -> Node:
    """An oblivious tree, whose nodes of one depth ask the same, as a tree with nodes of its own.
    The last split is the highest bit of a leaf's place, and becomes the root. A leaf has one value,
    or one for each class."""
    count = 2 ** len(splits)
    per_leaf = len(values) // count
    nodes: list[Node] = [
        {"value": values[at] if per_leaf == 1 else values[at * per_leaf : (at + 1) * per_leaf]}
        for at in range(count)
    ]
    for split in splits:
        pairs = zip(nodes[::2], nodes[1::2], strict=True)
        nodes = [{"split": split, "left": left, "right": right} for left, right in pairs]
    (root,) = nodes
    return root
