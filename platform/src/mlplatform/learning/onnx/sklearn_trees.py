"""Trees of scikit-learn whose ONNX form decides every row as they do: thresholds, and missing
values.

ONNX holds thresholds as float32, and skl2onnx does not say to which side of a split of a decision
tree or a forest missing values go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def round_thresholds(estimator: Any) -> None:
    """Round every split's threshold of a fitted estimator down to a float32, which gives the same
    model for float32 inputs. Estimators without trees stay as they are.

    With rounding to nearest, a value between a threshold and its rounded form would take the other
    branch.
    """
    for trees in getattr(estimator, "_predictors", ()):  # boosted trees over bins
        for tree in trees:
            tree.nodes["num_threshold"] = _float32_below(tree.nodes["num_threshold"])
    for tree in _trees(estimator):
        tree.threshold[:] = _float32_below(tree.threshold)


def route_missing_values(graph: Any, estimator: Any) -> None:
    """Write into the graph's tree node to which side missing values go at each split of a decision
    tree or a forest. Another estimator's graph stays as it is."""
    trees = _trees(estimator)
    nodes = [node for node in graph.node if node.op_type.startswith("TreeEnsemble")]
    if not trees or len(nodes) != 1:
        return
    fields = {field.name: field for field in nodes[0].attribute}
    places = zip(fields["nodes_treeids"].ints, fields["nodes_nodeids"].ints, strict=True)
    if max(fields["nodes_treeids"].ints) + 1 != len(trees):
        return
    sides = [bool(trees[tree].missing_go_to_left[node]) for tree, node in places]
    if "nodes_missing_value_tracks_true" in fields:
        nodes[0].attribute.remove(fields["nodes_missing_value_tracks_true"])
    from onnx import helper  # commands start without onnx

    written = helper.make_attribute(
        "nodes_missing_value_tracks_true", [int(side) for side in sides]
    )
    nodes[0].attribute.append(written)


def _trees(estimator: Any) -> Sequence[Any]:
    """The trees of a decision tree, a forest or another ensemble of decision trees."""
    members = np.ravel(getattr(estimator, "estimators_", [estimator])).tolist()
    return [member.tree_ for member in members if hasattr(member, "tree_")]


def _float32_below(exact: NDArray[np.float64]) -> NDArray[np.float32]:
    near = exact.astype(np.float32)
    above = near.astype(np.float64) > exact
    return np.where(above, np.nextafter(near, np.float32(-np.inf)), near)
