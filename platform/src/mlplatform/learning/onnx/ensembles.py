"""The trees of an ONNX file as tables, if the file is an ensemble of trees and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlplatform.model.bundle import INPUT_NAME, OUTPUT_NAME, Link
from mlplatform.runtime.errors import InputInvalid

IR_VERSION: Final = 8
"""Version of the ONNX format in which files are written here."""
HALF_A_ROW = 0.5
"""Rows added to the cover of every leaf, so that a leaf which no row of the background reaches has
a weight, and every fraction of a path is positive."""

_MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GT", "BRANCH_GTE", "LEAF")
_SELECTING = frozenset({"Cast", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze"})
"""Operators that may stand between the trees and the scores: they select a column and compute
nothing."""


class NotAnEnsemble(InputInvalid):
    """The file computes more than a sum over trees, or in a way that is not supported here."""

    def __init__(self, problem: str) -> None:
        super().__init__("ONNX model", None, problem)


@dataclass(frozen=True, slots=True)
class Ensemble:
    """A sum over binary trees, node by node; the raw score is its link of that sum, the margin.

    Args:
        feature: for each node, position of the input that it tests; -1 for a leaf.
        threshold: a value goes left if it is less than or equal to this.
        left: for each node, position of its left child; `right` is the same for the right child.
        missing_left: whether a missing value goes left.
        value: what a leaf adds to the margin; 0 for other nodes.
        roots: position of each tree's root node.
        base: the margin before any tree is added.
    """

    feature: NDArray[np.int64]
    threshold: NDArray[np.float32]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    missing_left: NDArray[np.bool_]
    value: NDArray[np.float64]
    roots: NDArray[np.int64]
    base: float
    link: Link

    def leaves(self, x: NDArray[np.float32], root: int) -> NDArray[np.int64]:
        """The leaf of one tree that each row reaches."""
        at = np.full(len(x), root)
        going = np.arange(len(x))
        while True:
            going = going[self.feature[at[going]] >= 0]
            if not len(going):
                return at
            nodes = at[going]
            values = x[going, self.feature[nodes]]
            is_left = np.where(
                np.isnan(values), self.missing_left[nodes], values <= self.threshold[nodes]
            )
            at[going] = np.where(is_left, self.left[nodes], self.right[nodes])

    def margins(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """The sum over the trees for each row."""
        total = np.full(len(x), self.base)
        for root in self.roots:
            total += self.value[self.leaves(x, root)]
        return total

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """The raw score of each row, as the model gives it."""
        margins = self.margins(x)
        return margins if self.link == "identity" else 1 / (1 + np.exp(-margins))

    def covers(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """The number of rows that pass each node, and half a row more for every leaf below it."""
        cover = np.where(self.feature < 0, HALF_A_ROW, 0.0)
        for root in self.roots:
            np.add.at(cover, self.leaves(x, root), 1.0)
        for node in self._upwards():
            cover[node] = cover[self.left[node]] + cover[self.right[node]]
        return cover

    def _upwards(self) -> list[int]:
        """Every node with children, children before parents."""
        order: list[int] = []
        waiting = [int(root) for root in self.roots]
        while waiting:
            node = waiting.pop()
            if self.feature[node] >= 0:
                order.append(node)
                waiting += (int(self.left[node]), int(self.right[node]))
        return order[::-1]


def read_ensemble(content: bytes) -> Ensemble:
    """The trees of an ONNX file.

    A caller must compare the scores of these trees with the file's own: what a node does is defined
    by the operator and by the runtime.

    Source: ONNX, ai.onnx.ml, TreeEnsembleRegressor-3 and TreeEnsembleClassifier-3.

    Raises:
        NotAnEnsemble: the file computes something else than one ensemble of trees; the message says
            what.
    """
    import onnx  # commands start without onnx

    graph = onnx.load_from_string(content).graph
    trees = [n for n in graph.node if n.op_type.startswith("TreeEnsemble")]
    if len(trees) != 1:
        raise NotAnEnsemble(f"{len(trees)} tree ensembles, not one")
    (node,) = trees
    others = {n.op_type for n in graph.node if n is not node}
    sigmoids = sum(n.op_type == "Sigmoid" for n in graph.node)
    if sigmoids == 1:
        others.discard("Sigmoid")
    if not others <= _SELECTING or list(node.input) != [INPUT_NAME]:
        computed = ", ".join(sorted(others - _SELECTING)) or f"something before {INPUT_NAME!r}"
        raise NotAnEnsemble(f"computes more than trees: {computed}")
    if OUTPUT_NAME not in {o for n in graph.node for o in n.output}:
        raise NotAnEnsemble(f"{OUTPUT_NAME!r} is not computed by it")
    fields = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "TreeEnsembleRegressor":
        return _ensemble(fields, "target", _regressor_link(fields, sigmoids))
    if node.op_type == "TreeEnsembleClassifier":
        return _ensemble(fields, "class", _classifier_link(fields, sigmoids))
    raise NotAnEnsemble(f"{node.op_type} is not read")


def _regressor_link(fields: Mapping[str, Any], sigmoids: int) -> Link:
    if fields.get("n_targets", 1) != 1 or fields.get("aggregate_function", b"SUM") != b"SUM":
        raise NotAnEnsemble("more than one target, or not a sum over trees")
    if fields.get("post_transform", b"NONE") != b"NONE":
        # ONNX Runtime gives the bare sum there, whatever the operator's definition says.
        raise NotAnEnsemble("a regressor with a post_transform")
    return "logistic" if sigmoids else "identity"


def _classifier_link(fields: Mapping[str, Any], sigmoids: int) -> Link:
    if len(fields.get("classlabels_int64s", ())) != 2 or len(set(fields.get("class_ids", ()))) != 1:
        raise NotAnEnsemble("not two classes with one weight a leaf")
    link = _link(fields)
    if sigmoids:
        raise NotAnEnsemble("a classifier with a Sigmoid behind it")
    return link


def _link(fields: Mapping[str, Any]) -> Link:
    links: dict[bytes, Link] = {b"NONE": "identity", b"LOGISTIC": "logistic"}
    transform = fields.get("post_transform", b"NONE")
    if transform not in links:
        raise NotAnEnsemble(f"post_transform {transform.decode()}")
    return links[transform]


def _ensemble(fields: Mapping[str, Any], leaf: str, link: Link) -> Ensemble:
    if "nodes_values" not in fields:
        raise NotAnEnsemble("the thresholds of its trees are not float32")
    modes = [m.decode() for m in fields.get("nodes_modes", ())]
    if not set(modes) <= set(_MODES) or len(fields.get("base_values", ())) > 1:
        raise NotAnEnsemble("a kind of node, or base values, that are not read")
    trees = np.array(fields["nodes_treeids"])
    keys = list(zip(trees.tolist(), fields["nodes_nodeids"], strict=True))
    position = {key: i for i, key in enumerate(keys)}
    is_leaf = np.array([m == "LEAF" for m in modes])
    true, false = (
        np.array([
            -1 if stop else position[tree, child]
            for stop, tree, child in zip(is_leaf, trees.tolist(), fields[name], strict=True)
        ])
        for name in ("nodes_truenodeids", "nodes_falsenodeids")
    )  # fmt: skip
    swapped = np.array([m in ("BRANCH_GT", "BRANCH_GTE") for m in modes])
    missing_true = np.array(fields.get("nodes_missing_value_tracks_true") or [0] * len(modes)) > 0
    value = np.zeros(len(modes))
    leaves = (fields[f"{leaf}_{part}"] for part in ("treeids", "nodeids", "weights"))
    for tree, node, weight in zip(*leaves, strict=True):
        value[position[tree, node]] += weight
    return Ensemble(
        feature=np.where(is_leaf, -1, np.array(fields["nodes_featureids"])),
        threshold=_thresholds(np.array(fields["nodes_values"], np.float32), modes),
        left=np.where(swapped, false, true),
        right=np.where(swapped, true, false),
        missing_left=missing_true ^ swapped,
        value=value,
        roots=_roots(trees, true, false),
        base=float(sum(fields.get("base_values", ()))),
        link=link,
    )


def _thresholds(values: NDArray[np.float32], modes: list[str]) -> NDArray[np.float32]:
    """Thresholds that a value must not be above. For float32 inputs, "below t" means at most the
    float32 before t."""
    strict = np.array([m in ("BRANCH_LT", "BRANCH_GTE") for m in modes])
    with np.errstate(over="ignore"):  # for missing values CatBoost splits at the least float32
        return np.where(strict, np.nextafter(values, np.float32(-np.inf)), values)


def _roots(
    trees: NDArray[np.int64], true: NDArray[np.int64], false: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The root of each tree: the node that is no node's child."""
    children = np.concatenate([true, false])
    is_root = ~np.isin(np.arange(len(trees)), children)
    if len(set(trees[is_root].tolist())) != is_root.sum() or is_root.sum() != len(set(trees)):
        raise NotAnEnsemble("trees without one root each")
    return np.flatnonzero(is_root)
