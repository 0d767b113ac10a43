"""TreeSHAP of an ensemble, compiled to an ONNX graph: from a row to each input's share.

The value of a set of inputs is the mean margin over the background with those inputs at the row's
values, taken along the paths of the trees (path-dependent TreeSHAP): where a split asks about
another input, both branches count by their cover. A leaf adds to it v Π o_j Π z_j, over the inputs
on its path: o_j is 1 where the row meets every condition of the path on input j, z_j the product of
the cover fractions of those conditions. Shapley values of such a product are an integral,

    v (o_i - z_i) ∫ Π_{j≠i} (t o_j + (1 - t) z_j) dt  over t from 0 to 1,

of a polynomial whose degree is below the number of inputs on the path, so that Gauss-Legendre
quadrature with half as many points is exact. Leaves are grouped by that number, filled up to an
even one with an input that changes nothing (o = z = 1).

Source: Lundberg et al., "From local explanations to global understanding with explainable AI for
trees", Nature Machine Intelligence 2, 2020, algorithm 1; Yu et al., "Linear TreeShap", NeurIPS
2022, section 3, for the polynomial.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.onnx.ensembles import IR_VERSION, Ensemble
from mlplatform.model.bundle import CONTRIBUTIONS_NAME, INPUT_NAME
from mlplatform.runtime.errors import InputInvalid

OPSET = 17
MOST_ELEMENTS = 2_000_000
"""Most conditions in one graph: 40 MB of tables and some 15 ms a row."""

SEGMENT = 32
"""Length of the segments in which contributions to one input are summed; one product sums the
rest."""


@dataclass(frozen=True, slots=True)
class PathCondition:
    """All conditions on one input along one path: low < value <= high, or a missing value."""

    feature: int
    low: float = float("nan")
    high: float = float("inf")
    missing: bool = True
    share: float = 1.0

    def narrowed(
        self, threshold: float, share: float, *, left: bool, missing_left: bool
    ) -> PathCondition:
        """The path with one more split on the way down; `share` of the cover went this way."""
        return PathCondition(
            self.feature,
            self.low if left else float(np.fmax(self.low, threshold)),
            min(self.high, threshold) if left else self.high,
            self.missing and missing_left == left,
            self.share * share,
        )


FILL = PathCondition(0)
"""A condition that every value meets, with all of the cover: an input that changes nothing."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf's value and the conditions on its path, one for each input asked about."""

    value: float
    path: tuple[PathCondition, ...]

    @property
    def mean(self) -> float:
        """The leaf's contribution when no input is known."""
        return self.value * float(np.prod([i.share for i in self.path]))


def leaves(ensemble: Ensemble, cover: NDArray[np.float64]) -> Iterator[Leaf]:
    """Every leaf of every tree.

    Args:
        cover: weight of each node, positive; a node's weight is the sum of its children's weights.
    """
    for root in ensemble.roots.tolist():
        waiting: list[tuple[int, dict[int, PathCondition]]] = [(root, {})]
        while waiting:
            node, path = waiting.pop()
            feature = int(ensemble.feature[node])
            if feature < 0:
                yield Leaf(float(ensemble.value[node]), tuple(path.values()))
                continue
            for children, left in ((ensemble.left, True), (ensemble.right, False)):
                child = int(children[node])
                narrowed = path.get(feature, PathCondition(feature)).narrowed(
                    float(ensemble.threshold[node]),
                    float(cover[child] / cover[node]),
                    left=left,
                    missing_left=bool(ensemble.missing_left[node]),
                )
                waiting.append((child, {**path, feature: narrowed}))


@dataclass(frozen=True, slots=True)
class ShapGraph:
    """An ONNX graph from "inputs" float32 [1, F] to "contributions" float32 [F].

    Args:
        base: the mean margin. The margin of a row is `base` plus the sum of its contributions.
    """

    content: bytes
    base: float


def compile_tree_shap(ensemble: Ensemble, cover: NDArray[np.float64], *, inputs: int) -> ShapGraph:
    """The graph that explains rows of the ensemble.

    Raises:
        InputInvalid: the ensemble is too large to be explained within a request.
    """
    base, groups = ensemble.base, defaultdict(list)
    for leaf in leaves(ensemble, cover):
        base += leaf.mean
        if leaf.path:
            fill = len(leaf.path) % 2
            groups[len(leaf.path) + fill].append(replace(leaf, path=leaf.path + (FILL,) * fill))
    elements = sum(size * len(group) for size, group in groups.items())
    if elements > MOST_ELEMENTS:
        raise InputInvalid("ONNX model", None, f"{elements} conditions are too many to explain")
    return ShapGraph(_Graph(inputs).built(dict(sorted(groups.items()))), base)


class _Graph:
    """Nodes and tables, added in the order of the computation."""

    def __init__(self, inputs: int) -> None:
        self._inputs = inputs
        self._nodes: list[Any] = []
        self._tables: list[Any] = []

    def built(self, groups: dict[int, list[Leaf]]) -> bytes:
        """The whole graph; groups are leaves by the number of inputs on their paths."""
        from onnx import TensorProto, helper  # commands start without onnx

        if groups:
            # One element is one input on the path of one leaf, in the order [group, input, leaf].
            path = [leaf.path[j] for size, g in groups.items() for j in range(size) for leaf in g]
            self._add_differences(path)
            self._each_group(groups)
            self._sum_by_input([i.feature for i in path])
        else:
            self._table("nothing", np.zeros(self._inputs, np.float32))
            self._node("Identity", "nothing", CONTRIBUTIONS_NAME)
        graph = helper.make_graph(
            self._nodes,
            "tree_shap",
            [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, [1, self._inputs])],
            [helper.make_tensor_value_info(CONTRIBUTIONS_NAME, TensorProto.FLOAT, [self._inputs])],
            self._tables,
        )
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
        content: bytes = model.SerializeToString(deterministic=True)
        return content

    def _add_differences(self, path: Sequence[PathCondition]) -> None:
        """o - z of every element: how far it is from what the cover says of it."""
        self._table("flat", np.array([-1]))
        self._table("feature", np.array([i.feature for i in path], np.int32))
        self._table("low", np.array([i.low for i in path], np.float32))
        self._table("high", np.array([i.high for i in path], np.float32))
        self._table("takes_missing", np.array([i.missing for i in path]))
        self._table("share", np.array([i.share for i in path], np.float32))
        self._node("Reshape", (INPUT_NAME, "flat"), "row")
        self._node("GatherElements", ("row", "feature"), "value", axis=0)
        self._node("LessOrEqual", ("value", "high"), "not_above")
        # If there is no low bound it is NaN, and no value is below NaN. A missing value fails the
        # high bound.
        self._node("LessOrEqual", ("value", "low"), "below")
        self._node("Not", "below", "not_below")
        self._node("And", ("not_above", "not_below"), "within")
        self._node("IsNaN", "value", "is_missing")
        self._node("And", ("is_missing", "takes_missing"), "met_missing")
        self._node("Or", ("within", "met_missing"), "met")
        self._node("Cast", "met", "met_number", to=1)
        self._node("Sub", ("met_number", "share"), "gap")

    def _each_group(self, groups: dict[int, list[Leaf]]) -> None:
        sizes = [size * len(group) for size, group in groups.items()]
        self._table("sizes", np.array(sizes))
        self._node("Split", ("gap", "sizes"), [f"gap_{size}" for size in groups], axis=0)
        self._node("Split", ("share", "sizes"), [f"share_{size}" for size in groups], axis=0)
        for size, group in groups.items():
            self._group(size, group)
        self._node("Concat", [f"shares_{size}" for size in groups], "shares", axis=0)

    def _group(self, size: int, group: Sequence[Leaf]) -> None:
        """Shapley values of leaves with `size` inputs each, as [input, point, leaf]."""
        points, weights = np.polynomial.legendre.leggauss(size // 2)
        count, half = len(group), len(points)
        weighted = weights[:, None] / 2 * np.array([leaf.value for leaf in group])
        self._table(f"shape_{size}", np.array([size, 1, count]))
        self._table(f"t_{size}", ((points + 1) / 2).reshape(1, half, 1).astype(np.float32))
        self._table(f"weighted_{size}", weighted.astype(np.float32)[None])
        self._node("Reshape", (f"gap_{size}", f"shape_{size}"), f"g_{size}")
        self._node("Reshape", (f"share_{size}", f"shape_{size}"), f"z_{size}")
        self._node("Mul", (f"g_{size}", f"t_{size}"), f"gt_{size}")
        self._node("Add", (f"gt_{size}", f"z_{size}"), f"factor_{size}")
        self._node("Mul", (self._product(size), f"weighted_{size}"), f"whole_{size}")
        self._node("Div", (f"whole_{size}", f"factor_{size}"), f"without_{size}")
        self._table(f"points_{size}", np.array([1]))
        self._node("ReduceSum", (f"without_{size}", f"points_{size}"), f"sum_{size}", keepdims=1)
        self._node("Mul", (f"sum_{size}", f"g_{size}"), f"c_{size}")
        self._node("Reshape", (f"c_{size}", "flat"), f"shares_{size}")

    def _product(self, size: int) -> str:
        """The product of a group's factors over the inputs of each leaf, by halves."""
        name, left = f"factor_{size}", size
        while left > 1:
            half = left // 2
            parts = [half, half, *([1] if left % 2 else [])]
            names = [f"{name}_{i}" for i in range(len(parts))]
            self._table(f"{name}_parts", np.array(parts))
            self._node("Split", (name, f"{name}_parts"), names, axis=0)
            self._node("Mul", names[:2], f"{name}_")
            if left % 2:
                self._node("Concat", (f"{name}_", names[2]), f"{name}_p", axis=0)
            name, left = (f"{name}_p", half + 1) if left % 2 else (f"{name}_", half)
        return name

    def _sum_by_input(self, features: Sequence[int]) -> None:
        """Shares added up by input."""
        by_feature = np.argsort(features, kind="stable")
        counts = np.bincount(features, minlength=self._inputs)
        order, owners, start = [], [], 0
        for feature, count in enumerate(counts.tolist()):
            mine = by_feature[start : start + count]
            start += count
            segments = -(-count // SEGMENT)
            # Position len(features) is a zero behind all shares.
            order.append(np.pad(mine, (0, segments * SEGMENT - count), constant_values=start))
            order[-1][count:] = len(features)
            owners += [feature] * segments
        self._table("zero", np.zeros(1, np.float32))
        self._table("order", np.concatenate(order).astype(np.int32))
        self._table("segment_shape", np.array([-1, SEGMENT]))
        self._table("owner", np.eye(self._inputs, dtype=np.float32)[owners])
        self._table("within_segment", np.array([1]))
        self._node("Concat", ("shares", "zero"), "all_shares", axis=0)
        self._node("GatherElements", ("all_shares", "order"), "ordered", axis=0)
        self._node("Reshape", ("ordered", "segment_shape"), "segments")
        self._node("ReduceSum", ("segments", "within_segment"), "segment_sums", keepdims=0)
        self._node("MatMul", ("segment_sums", "owner"), CONTRIBUTIONS_NAME)

    def _node(
        self, kind: str, takes: str | Sequence[str], gives: str | Sequence[str], **attributes: Any
    ) -> None:
        from onnx import helper

        names = [[n] if isinstance(n, str) else list(n) for n in (takes, gives)]
        self._nodes.append(helper.make_node(kind, *names, **attributes))

    def _table(self, name: str, values: NDArray[Any]) -> None:
        from onnx import numpy_helper

        self._tables.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
