"""Boosted trees of classes, or of a number, from other libraries: raw scores, and ONNX written from
the trees.

Converters of these libraries round thresholds to nearest, guess base scores, and lag behind
releases. Here every split decides as the library itself does for float32 rows: a threshold is the
largest float32 for which a value goes left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
class ClassTrees:
    """Trees that add to the margins of several classes, of which the softmax is the probabilities.

    Args:
        splits: the trees; its values and base are not used.
        weights: what each node adds to each class [nodes, classes]; 0 for splits.
        bases: the margin of each class before any tree is added.
    """

    splits: Ensemble
    weights: NDArray[np.float64]
    bases: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FittedTrees:
    """A fitted classifier of two classes, whose score is the second one's probability, 0-1; one of
    several, whose scores are the probabilities of all; or a regressor, whose score is its number.

    Args:
        classes: number of classes whose probabilities are scores; 0: one score a row.
    """

    classifier: Any
    trees: Ensemble | ClassTrees
    inputs: int
    classes: int = 0

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """One raw score a row [n], or probabilities [n, classes], by the library itself."""
        with one_thread():
            if isinstance(self.trees, Ensemble) and self.trees.link == "identity":
                return np.asarray(self.classifier.predict(x), np.float64).reshape(len(x))
            found = np.asarray(self.classifier.predict_proba(x), np.float64)
            return found if self.classes else found[:, 1]

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The classifier's parameters, by the library's names."""
        parameters: Mapping[str, Any] = self.classifier.get_params()
        return parameters

    def onnx(self) -> bytes:
        """The trees with input "inputs" float32 [n, F] and output "scores" float32 [n], or
        [n, classes]."""
        if isinstance(self.trees, ClassTrees):
            return class_file(self.trees, inputs=self.inputs)
        return ensemble_file(self.trees, inputs=self.inputs, classes=self.classes)


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


def class_sum(
    roots: Iterable[Node],
    read: Callable[[Node], Split[Node] | Sequence[float]],
    bases: Sequence[float],
) -> ClassTrees:
    """Trees whose leaves add to the margins of classes.

    Args:
        roots: as in `tree_sum`.
        read: returns what a node is: a split, or what a leaf adds to each class.
        bases: the margin of each class before any tree is added.
    """
    leaves: list[Sequence[float]] = []

    def numbered(node: Node) -> Split[Node] | float:
        found = read(node)
        if isinstance(found, Split):
            return found
        leaves.append(found)
        return float(len(leaves) - 1)

    splits = tree_sum(roots, numbered, link="identity")
    weights = np.zeros((len(splits.feature), len(bases)))
    (places,) = np.nonzero(splits.feature < 0)
    weights[places] = np.array(leaves, np.float64)[splits.value[places].astype(np.int64)]
    return ClassTrees(splits, weights, np.array(bases, np.float64))


def of_one_class(
    read: Callable[[Node], Split[Node] | float], classes: int
) -> Callable[[tuple[int, Node]], Split[tuple[int, Node]] | Sequence[float]]:
    """Returns what a node of a tree that adds to one class is, by that class and the node.

    Args:
        read: as in `tree_sum`.
    """
    shares: list[list[float]] = np.eye(classes).tolist()

    def of_class(place: tuple[int, Node]) -> Split[tuple[int, Node]] | Sequence[float]:
        number, node = place
        found = read(node)
        if not isinstance(found, Split):
            return [found * share for share in shares[number]]
        left, right = (number, found.left), (number, found.right)
        return Split(found.feature, found.threshold, found.missing_left, left, right)

    return of_class


def class_file(trees: ClassTrees, *, inputs: int) -> bytes:
    """Trees of classes as an ONNX file, whose scores are the probabilities [n, classes].

    Source: ONNX, ai.onnx.ml, TreeEnsembleRegressor-3; Softmax-13.
    """
    from onnx import helper  # commands start without onnx

    attributes = {**_attributes(trees.splits), "base_values": trees.bases.tolist()}
    (tree, number), (nodes, classes) = _places(trees.splits), np.nonzero(trees.weights)
    if not len(nodes):  # the operator wants a leaf that adds something
        nodes, classes = trees.splits.roots[:1], np.zeros(1, np.int64)
    margins = helper.make_node(
        "TreeEnsembleRegressor",
        [INPUT_NAME],
        ["margins"],
        domain="ai.onnx.ml",
        **attributes,
        n_targets=len(trees.bases),
        target_treeids=tree[nodes].tolist(),
        target_nodeids=number[nodes].tolist(),
        target_ids=classes.tolist(),
        target_weights=trees.weights[nodes, classes].tolist(),
    )
    softmax = helper.make_node("Softmax", ["margins"], [OUTPUT_NAME], axis=1)
    return _file([margins, softmax], [], inputs=inputs, scores=[None, len(trees.bases)])


def ensemble_file(ensemble: Ensemble, *, inputs: int, classes: int = 0) -> bytes:
    """Trees as an ONNX file, whose score is the probability of log-odds, or the sum itself; leaves
    become float32.

    Args:
        classes: 2 for the probabilities of both classes, [n, 2].

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
    if classes:
        both = helper.make_node("Identity", [outputs[-1]], [OUTPUT_NAME])
        return _file([trees, both], [], inputs=inputs, scores=[None, classes])
    place = helper.make_tensor("column", TensorProto.INT64, [], [column])
    one = helper.make_node("Gather", [outputs[-1], "column"], [OUTPUT_NAME], axis=1)
    return _file([trees, one], [place], inputs=inputs, scores=[None])


def _file(
    nodes: Sequence[Any], constants: Sequence[Any], *, inputs: int, scores: list[int | None]
) -> bytes:
    """An ONNX file of these nodes, from the inputs [n, F] to scores of this shape."""
    from onnx import TensorProto, helper  # commands start without onnx

    graph = helper.make_graph(
        nodes,
        GRAPH,
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, [None, inputs])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, scores)],
        constants,
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
