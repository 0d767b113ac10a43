"""TreeSHAP compiled to ONNX: equal to the Shapley values of its definition, or not compiled."""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from mlplatform.learning.onnx.ensembles import NotAnEnsemble, read_ensemble
from mlplatform.learning.onnx.explainer import make_explainer
from mlplatform.learning.onnx.onnx_file import OnnxFile
from mlplatform.learning.onnx.tree_shap import compile_tree_shap
from mlplatform.model.bundle import Attribution
from support.onnx_bundles import sigmoid_model

INPUTS = 5
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GT", "BRANCH_GTE")


def random_forest(seed: int, trees: int = 3, depth: int = 6, link: str = "Sigmoid") -> bytes:
    """An ONNX file of random trees: every mode, missing values either way, repeated inputs."""
    rng = np.random.default_rng(seed)
    rows: list[tuple] = []
    weights: list[tuple[int, int, float]] = []

    def grow(tree: int, level: int) -> int:
        node = sum(row[0] == tree for row in rows)
        if level == depth or (level > 0 and rng.random() < 0.2):
            rows.append((tree, node, "LEAF", 0, 0.0, 0, 0, 0))
            weights.append((tree, node, float(np.float32(rng.normal()))))
            return node
        position = len(rows)
        rows.append(())
        rows[position] = (tree, node)
        threshold = float(rng.integers(-2, 3))
        mode, feature = str(rng.choice(MODES)), int(rng.integers(INPUTS))
        missing = int(rng.integers(2))
        true, false = grow(tree, level + 1), grow(tree, level + 1)
        rows[position] = (tree, node, mode, feature, threshold, true, false, missing)
        return node

    for tree in range(trees):
        grow(tree, 0)
    columns = [list(column) for column in zip(*rows, strict=True)]
    names = ("treeids", "nodeids", "modes", "featureids", "values", "truenodeids",
             "falsenodeids", "missing_value_tracks_true")  # fmt: skip
    trees_node = helper.make_node(
        "TreeEnsembleRegressor", ["inputs"], ["sum"], domain="ai.onnx.ml", n_targets=1,
        base_values=[0.25],
        target_treeids=[w[0] for w in weights], target_nodeids=[w[1] for w in weights],
        target_ids=[0] * len(weights), target_weights=[w[2] for w in weights],
        **{f"nodes_{name}": column for name, column in zip(names, columns, strict=True)},
    )  # fmt: skip
    return whole(
        [
            trees_node,
            helper.make_node(link, ["sum"], ["linked"]),
            helper.make_node("Reshape", ["linked", "flat"], ["scores"]),
        ]
    )


def whole(nodes: list) -> bytes:
    graph = helper.make_graph(
        nodes, "trees",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, [None, INPUTS])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None])],
        [helper.make_tensor("flat", TensorProto.INT64, [1], [-1])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def some_rows(seed: int, count: int) -> np.ndarray:
    """On and between thresholds, a fifth missing."""
    rng = np.random.default_rng(seed + 1)
    x = rng.integers(-6, 7, (count, INPUTS)).astype(np.float32) / 2
    x[rng.random(x.shape) < 0.2] = np.nan
    return x


def shapley(ensemble, cover, row) -> list[float]:
    """By enumeration of every set of inputs, from the definition."""

    def mean(node: int, known: frozenset[int]) -> float:
        feature = int(ensemble.feature[node])
        if feature < 0:
            return float(ensemble.value[node])
        left, right = int(ensemble.left[node]), int(ensemble.right[node])
        if feature in known:
            value = row[feature]
            goes_left = (
                ensemble.missing_left[node]
                if np.isnan(value)
                else value <= ensemble.threshold[node]
            )
            return mean(left if goes_left else right, known)
        return (cover[left] * mean(left, known) + cover[right] * mean(right, known)) / cover[node]

    values = {}
    for size in range(INPUTS + 1):
        for known in map(frozenset, itertools.combinations(range(INPUTS), size)):
            values[known] = sum(mean(int(root), known) for root in ensemble.roots)
    result = []
    for i in range(INPUTS):
        others = [known for known in values if i not in known]
        result.append(
            sum(
                (values[s | {i}] - values[s])
                * math.factorial(len(s)) * math.factorial(INPUTS - len(s) - 1)
                / math.factorial(INPUTS)
                for s in others
            )
        )  # fmt: skip
    return result


def contributions(content: bytes, row: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(content).run(None, {"inputs": row[None]})[0]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_graph_gives_the_shapley_values_of_every_tree(seed: int) -> None:
    ensemble = read_ensemble(random_forest(seed))
    cover = ensemble.covers(some_rows(seed + 7, 50))
    compiled = compile_tree_shap(ensemble, cover, inputs=INPUTS)
    for row in some_rows(seed, 5):
        expected = shapley(ensemble, cover, row)
        assert contributions(compiled.content, row) == pytest.approx(expected, abs=2e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["Sigmoid", "Identity"]))
def test_trees_read_from_a_file_score_as_the_file_does(seed: int, link: str) -> None:
    content, rows = random_forest(seed, link=link), some_rows(seed, 200)
    scores = OnnxFile(content, inputs=INPUTS).scores(rows)
    assert read_ensemble(content).scores(rows) == pytest.approx(scores, abs=1e-5)


def test_base_and_contributions_add_up_to_the_score_of_the_file() -> None:
    content, rows = random_forest(5, trees=40), some_rows(5, 200)
    model = OnnxFile(content, inputs=INPUTS)
    made = make_explainer(content, model, background=rows, rows=rows)
    assert (made.attribution.method, made.attribution.link) == ("tree_shap", "logistic")
    assert made.content is not None
    for row, raw in zip(rows, model.scores(rows), strict=True):
        shares = contributions(made.content, row).tolist()
        margin = made.attribution.margin(shares)
        assert 1 / (1 + math.exp(-margin)) == pytest.approx(raw, abs=1e-5)
        assert made.attribution.adds_up(shares, raw)
        assert not made.attribution.adds_up([*shares, 0.01], raw) or raw * (1 - raw) < 1e-3


def test_a_model_that_is_more_than_trees_says_what_stands_against_it() -> None:
    content = sigmoid_model(INPUTS)
    rows = some_rows(1, 50)
    made = make_explainer(content, OnnxFile(content, inputs=INPUTS), background=rows, rows=rows)
    assert (made.attribution.method, made.content) == ("reference_values", None)
    assert "0 tree ensembles" in made.attribution.why


def test_what_computes_beside_the_trees_is_not_read() -> None:
    trees = helper.make_node("Tanh", ["inputs"], ["x"])
    with pytest.raises(NotAnEnsemble, match="0 tree"):
        read_ensemble(whole([trees, helper.make_node("Reshape", ["x", "flat"], ["scores"])]))


@pytest.mark.parametrize("margin", [-800.0, -3.0, 0.0, 3.0, 800.0])
def test_margins_of_any_size_add_up_to_their_own_score_only(margin: float) -> None:
    attribution = Attribution(method="tree_shap", link="logistic")
    score = 0.5 + 0.5 * math.tanh(margin / 2)
    assert attribution.adds_up([margin], score)
    assert not attribution.adds_up([margin], score + 0.001)
