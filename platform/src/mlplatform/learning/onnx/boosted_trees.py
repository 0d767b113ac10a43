"""Boosted trees of two classes, or of a number, from other libraries: raw scores, and ONNX written
from the trees.

Converters of these libraries round thresholds to nearest, guess base scores, and lag behind
releases. Here every split decides as the library itself does for float32 rows: a threshold is the
largest float32 for which a value goes left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.onnx.ensembles import IR_VERSION, Ensemble
from mlplatform.learning.onnx.sklearn import GRAPH, OPSET, one_thread
from mlplatform.model.bundle import INPUT_NAME, OUTPUT_NAME, Link
from mlplatform.runtime.errors import ConfigInvalid

LARGEST = float(np.finfo(np.float32).max)
_STOPPING: Final = "none: it needs rows that are not fitted; n_estimators says how many trees"
REFUSED: Final = {
    "early_stopping_rounds": _STOPPING,
    "early_stopping_round": _STOPPING,
    "pred_early_stop": "False: a score is the sum of all trees",
}
"""Parameters that no form of a model here can follow, and the value each must have."""
Node = TypeVar("Node")


@dataclass(frozen=True, slots=True)
class Split(Generic[Node]):
    """A node with children: a value goes left if it is not above the threshold, a float32."""

    feature: int
    threshold: np.float32
    missing_left: bool
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class FittedTrees:
    """A fitted classifier of two classes, whose score is the second one's probability, 0-1; or a
    regressor, whose score is its number."""

    classifier: Any
    trees: Ensemble
    inputs: int

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """One raw score a row, by the library itself."""
        with one_thread():
            if self.trees.link == "identity":
                return np.asarray(self.classifier.predict(x), np.float64).reshape(len(x))
            return np.asarray(self.classifier.predict_proba(x)[:, 1], np.float64)

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The classifier's parameters, by the library's names."""
        parameters: Mapping[str, Any] = self.classifier.get_params()
        return parameters

    def onnx(self) -> bytes:
        """The trees with input "inputs" float32 [n, F] and output "scores" float32 [n]."""
        return ensemble_file(self.trees, inputs=self.inputs)


def fit_on_one_thread(
    classifier: Any,
    x: NDArray[np.float32],
    y: NDArray[Any],
    weights: NDArray[np.float64] | None,
    *,
    threads: str = "n_jobs",
) -> None:
    """Fit a classifier with scikit-learn's methods, on one thread unless it names a number.

    Args:
        threads: name of the classifier's parameter for the number of threads.

    Raises:
        ConfigInvalid: a parameter of the classifier needs rows that the fit does not have, or makes
            its score differ from the sum of its trees.
    """
    parameters = classifier.get_params()
    for name, wanted in REFUSED.items():
        if parameters.get(name):
            raise ConfigInvalid(f"{type(classifier).__name__}: {name}", parameters[name], wanted)
    if parameters.get(threads) is None:
        classifier.set_params(**{threads: 1})
    with one_thread():
        classifier.fit(x, y, sample_weight=weights)


def float32_below(value: float) -> np.float32:
    """The largest float32 that is not above a number, and is not infinite above."""
    if value < -LARGEST:
        return np.float32(-np.inf)
    near = np.float32(min(value, LARGEST))
    return np.nextafter(near, np.float32(-np.inf)) if float(near) > value else near


def tree_sum(
    roots: Iterable[Node],
    read: Callable[[Node], Split[Node] | float],
    *,
    base: float = 0.0,
    link: Link = "logistic",
) -> Ensemble:
    """An ensemble of trees whose sum is the log-odds of the second class, or a number.

    Args:
        roots: the root node of each tree, in the library's own form.
        read: returns what a node is: a split, or the value of a leaf.
        base: the sum before any tree is added.
        link: how the sum becomes the score: `logistic` for a probability, `identity` for a number.
    """
    splits: list[tuple[int, np.float32, bool]] = []
    children: list[list[int]] = []
    values, starts = [], []
    for root in roots:
        starts.append(len(splits))
        waiting: list[tuple[Node, int, int]] = [(root, -1, 0)]
        while waiting:
            node, parent, side = waiting.pop()
            at = len(splits)
            if parent >= 0:
                children[parent][side] = at
            children.append([-1, -1])
            match read(node):
                case Split() as split:
                    splits.append((split.feature, split.threshold, split.missing_left))
                    values.append(0.0)
                    waiting += [(split.right, at, 1), (split.left, at, 0)]
                case value:
                    splits.append((-1, np.float32(0), False))
                    values.append(value)
    return Ensemble(
        feature=np.array([feature for feature, _, _ in splits], np.int64),
        threshold=np.array([threshold for _, threshold, _ in splits], np.float32),
        left=np.array([left for left, _ in children], np.int64),
        right=np.array([right for _, right in children], np.int64),
        missing_left=np.array([left for _, _, left in splits], np.bool_),
        value=np.array(values, np.float64),
        roots=np.array(starts, np.int64),
        base=base,
        link=link,
    )


def ensemble_file(ensemble: Ensemble, *, inputs: int) -> bytes:
    """Trees as an ONNX file, whose score is the probability of log-odds, or the sum itself; leaves
    become float32.

    Source: ONNX, ai.onnx.ml, TreeEnsembleClassifier-3 and TreeEnsembleRegressor-3.
    """
    from onnx import TensorProto, helper  # commands start without onnx

    operator, outputs, column, leaves = _OPERATORS[ensemble.link]
    trees = helper.make_node(
        operator,
        [INPUT_NAME],
        outputs,
        domain="ai.onnx.ml",
        **_attributes(ensemble),
        **leaves(ensemble),
    )
    graph = helper.make_graph(
        [trees, helper.make_node("Gather", [outputs[-1], "column"], [OUTPUT_NAME], axis=1)],
        GRAPH,
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, [None, inputs])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [None])],
        [helper.make_tensor("column", TensorProto.INT64, [], [column])],
    )
    opset = [helper.make_opsetid(domain, version) for domain, version in OPSET.items()]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
    exported: bytes = model.SerializeToString(deterministic=True)
    return exported


def _attributes(ensemble: Ensemble) -> dict[str, Any]:
    """The operator's attributes without leaves; nodes are numbered from 0 in each tree."""
    is_leaf = ensemble.feature < 0
    tree, number = _places(ensemble)
    start = ensemble.roots[tree]
    return {
        "nodes_treeids": tree.tolist(),
        "nodes_nodeids": number.tolist(),
        "nodes_featureids": np.where(is_leaf, 0, ensemble.feature).tolist(),
        "nodes_modes": np.where(is_leaf, "LEAF", "BRANCH_LEQ").tolist(),
        "nodes_values": ensemble.threshold.tolist(),
        "nodes_truenodeids": np.where(is_leaf, 0, ensemble.left - start).tolist(),
        "nodes_falsenodeids": np.where(is_leaf, 0, ensemble.right - start).tolist(),
        "nodes_missing_value_tracks_true": ensemble.missing_left.astype(int).tolist(),
        "base_values": [ensemble.base],
        "post_transform": "LOGISTIC" if ensemble.link == "logistic" else "NONE",
    }


def _places(ensemble: Ensemble) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The tree of each node, and its number there."""
    nodes = np.arange(len(ensemble.feature))
    tree = np.searchsorted(ensemble.roots, nodes, side="right") - 1
    return tree, nodes - ensemble.roots[tree]


def _leaves(ensemble: Ensemble, of: str) -> dict[str, Any]:
    leaves, (tree, number) = np.flatnonzero(ensemble.feature < 0), _places(ensemble)
    return {
        f"{of}_treeids": tree[leaves].tolist(),
        f"{of}_nodeids": number[leaves].tolist(),
        f"{of}_ids": [0] * len(leaves),
        f"{of}_weights": ensemble.value[leaves].tolist(),
    }


def _of_classes(ensemble: Ensemble) -> dict[str, Any]:
    return {**_leaves(ensemble, "class"), "classlabels_int64s": [0, 1]}


def _of_number(ensemble: Ensemble) -> dict[str, Any]:
    return {**_leaves(ensemble, "target"), "n_targets": 1}


_Leaves = Callable[[Ensemble], dict[str, Any]]
_OPERATORS: Final[Mapping[Link, tuple[str, list[str], int, _Leaves]]] = {
    "logistic": ("TreeEnsembleClassifier", ["label", "probabilities"], 1, _of_classes),
    "identity": ("TreeEnsembleRegressor", ["numbers"], 0, _of_number),
}
"""Link → the operator, its outputs, the score's column, and the names of its leaf attributes."""
