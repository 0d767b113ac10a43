"""ONNX models that do harm where they are run, made by hand: small files, whatever they take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

WIDTH = 3
ROW_SUM = helper.make_node("ReduceSum", ["inputs", "last"], ["sum"], keepdims=0)


def model(nodes: Sequence[NodeProto], weights: dict[str, Any], width: int = WIDTH) -> ModelProto:
    """A model of the platform's signature around nodes that read `sum`, a row's sum."""
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items()]
    tensors.append(numpy_helper.from_array(np.array([1], np.int64), "last"))
    graph = helper.make_graph(
        [ROW_SUM, *nodes],
        "hostile",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None])],
        tensors,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def harmless(width: int = WIDTH) -> ModelProto:
    return model([helper.make_node("Sigmoid", ["sum"], ["scores"])], {}, width)


def large_constant(size: int = 700_000_000, width: int = WIDTH) -> ModelProto:
    """About 2.8 GB out of some 230 bytes."""
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["large"]),
        helper.make_node("ReduceSum", ["large"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["sum", "nothing"], ["scores"]),
    ]
    return model(nodes, {"size": np.array([size], np.int64)}, width)


def doubling(times: int = 34, width: int = WIDTH) -> ModelProto:
    """As much memory out of an operator that models need: a tensor joined with itself."""
    joined = [
        helper.make_node("Concat", [f"x{i}", f"x{i}"], [f"x{i + 1}"], axis=0) for i in range(times)
    ]
    nodes = [
        helper.make_node("Identity", ["sum"], ["x0"]),
        *joined,
        helper.make_node("ReduceMax", [f"x{times}"], ["most"], keepdims=0),
        helper.make_node("Add", ["sum", "most"], ["scores"]),
    ]
    return model(nodes, {}, width)


def endless_loop(width: int = WIDTH) -> ModelProto:
    """A loop of 2^62 rounds."""
    number = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    going = helper.make_tensor_value_info("going", TensorProto.BOOL, [])
    still = helper.make_tensor_value_info("still", TensorProto.BOOL, [])
    value, more = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [None]) for n in ("value", "more")
    )
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("Neg", ["value"], ["more"]),
        ],
        "round",
        [number, going, value],
        [still, more],
    )
    nodes = [helper.make_node("Loop", ["rounds", "yes", "sum"], ["scores"], body=body)]
    return model(nodes, {"rounds": np.array(2**62, np.int64), "yes": np.array(True)}, width)


def slow_products(size: int = 2048, rounds: int = 200, width: int = WIDTH) -> ModelProto:
    """Minutes of processor time out of operators that models need."""
    nodes = [
        helper.make_node("ReduceMean", ["sum"], ["one"], keepdims=0),
        helper.make_node("Mul", ["square", "one"], ["m0"]),
        *(helper.make_node("MatMul", [f"m{i}", "square"], [f"m{i + 1}"]) for i in range(rounds)),
        helper.make_node("ReduceMax", [f"m{rounds}"], ["most"], keepdims=0),
        helper.make_node("Add", ["sum", "most"], ["scores"]),
    ]
    return model(nodes, {"square": np.full((size, size), 1 / size, np.float32)}, width)


def reading(location: str, width: int = WIDTH) -> ModelProto:
    """Looks eight bytes of another file up as an index, which stands in ONNX Runtime's error."""
    nodes = [
        helper.make_node("Gather", ["inputs", "index"], ["picked"], axis=1),
        helper.make_node("ReduceSum", ["picked", "last"], ["scores"], keepdims=0),
    ]
    made = model(nodes, {}, width)
    made.graph.initializer.append(external("index", location))
    return made


def external(name: str, location: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.INT64, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "8")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def not_a_number(width: int = WIDTH) -> ModelProto:
    return model([helper.make_node("Log", ["sum"], ["scores"])], {}, width)


def circle_of_nodes(width: int = WIDTH) -> ModelProto:
    """A tree whose node is its own descendant."""
    fields: dict[str, Any] = {
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [0, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "BRANCH_LEQ", "LEAF"],
        "nodes_values": [1.0, 2.0, 0.0],
        "nodes_truenodeids": [1, 1, 0],
        "nodes_falsenodeids": [2, 1, 0],
        "target_treeids": [0],
        "target_nodeids": [2],
        "target_ids": [0],
        "target_weights": [0.5],
        "n_targets": 1,
    }
    nodes = [
        helper.make_node(
            "TreeEnsembleRegressor", ["inputs"], ["column"], domain="ai.onnx.ml", **fields
        ),
        helper.make_node("Reshape", ["column", "flat"], ["scores"]),
    ]
    return model(nodes, {"flat": np.array([-1], np.int64)}, width)


HOSTILE: dict[str, Callable[..., ModelProto]] = {
    "large_constant": large_constant,
    "doubling": doubling,
    "endless_loop": endless_loop,
    "circle_of_nodes": circle_of_nodes,
}
