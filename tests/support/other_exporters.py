"""Files as exporters write them that are not installed here, node by node."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

ROWS: Final = np.array([[0.1, -2.0], [0.3, 0.5], [2.0, 0.6], [-1.0, 3.0]], np.float32)
TORCH_DATA: Final = "model.onnx.data"
_BASE: Final = -0.25
_LEAVES: Final = ((-0.5, 0.25), (-0.125, 0.75))
_SPLITS: Final = (0.2, 0.4)
_DENSE: Final = (
    np.array([[0.5, -1.0], [1.5, 0.25], [-0.75, 1.0]], np.float32),
    np.array([0.1, -0.2, 0.3], np.float32),
    np.array([[1.0, -0.5, 0.75]], np.float32),
    np.array([0.05], np.float32),
)


def onnxmltools_xgboost() -> ModelProto:
    """Two trees of one split each, as `onnxmltools.convert_xgboost` 1.16 writes a classifier: input
    `input`, outputs `label` and `probabilities`, one operator of ai.onnx.ml and no other domain."""
    fields: dict[str, Any] = {
        "base_values": [_BASE],
        "class_ids": [0, 0, 0, 0],
        "class_nodeids": [1, 2, 1, 2],
        "class_treeids": [0, 0, 1, 1],
        "class_weights": [leaf for leaves in _LEAVES for leaf in leaves],
        "classlabels_int64s": [0, 1],
        "nodes_falsenodeids": [2, 0, 0, 2, 0, 0],
        "nodes_featureids": [0, 0, 0, 1, 0, 0],
        "nodes_missing_value_tracks_true": [0] * 6,
        "nodes_modes": ["BRANCH_LT", "LEAF", "LEAF"] * 2,
        "nodes_nodeids": [0, 1, 2] * 2,
        "nodes_treeids": [0, 0, 0, 1, 1, 1],
        "nodes_truenodeids": [1, 0, 0, 1, 0, 0],
        "nodes_values": [_SPLITS[0], 0.0, 0.0, _SPLITS[1], 0.0, 0.0],
        "post_transform": "LOGISTIC",
    }
    node = helper.make_node(
        "TreeEnsembleClassifier",
        ["input"],
        ["label", "probabilities"],
        domain="ai.onnx.ml",
        **fields,
    )
    graph = helper.make_graph(
        [node],
        "8ed8128bb7244c9ca8cf337599a2624d",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, 2])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2]),
        ],
    )
    opsets = [helper.make_opsetid("ai.onnx.ml", 1)]
    named = {"producer_name": "OnnxMLTools", "producer_version": "1.16.0", "domain": "onnxml"}
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **named)


def xgboost_scores(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """What the booster that it was made of gives."""
    margin = np.full(len(rows), _BASE)
    for column, (split, (left, right)) in enumerate(zip(_SPLITS, _LEAVES, strict=True)):
        margin += np.where(rows[:, column] < split, left, right)
    return np.asarray(1 / (1 + np.exp(-margin)))


def torch_export(folder: Path) -> Path:
    """A network of two layers, as `torch.onnx.export(..., dynamo=True, external_data=True)` writes
    it: weights in `model.onnx.data`, what node came from which line in metadata, an output of one
    column; returns the model's path."""
    names = ("0.weight", "0.bias", "2.weight", "2.bias")
    tensors, offset = [], 0
    with (folder / TORCH_DATA).open("wb") as file:
        for name, numbers in zip(names, _DENSE, strict=True):
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=numbers.shape)
            tensor.data_location = TensorProto.EXTERNAL
            places = {"location": TORCH_DATA, "offset": offset, "length": numbers.nbytes}
            for key, value in places.items():
                tensor.external_data.add(key=key, value=str(value))
            file.write(numbers.tobytes())
            tensors.append(tensor)
            offset += numbers.nbytes
    nodes = [
        helper.make_node("Gemm", ["x", *names[:2]], ["linear"], "node_linear", transB=1),
        helper.make_node("Relu", ["linear"], ["relu"], "node_relu"),
        helper.make_node("Gemm", ["relu", *names[2:]], ["linear_1"], "node_linear_1", transB=1),
        helper.make_node("Sigmoid", ["linear_1"], ["sigmoid"], "node_sigmoid"),
    ]
    for node in nodes:
        node.metadata_props.add(key="namespace", value=f": Network/{node.name}: torch.nn.Module")
        node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value='File "train.py", line 31')
    graph = helper.make_graph(
        nodes,
        "main_graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("sigmoid", TensorProto.FLOAT, ["batch", 1])],
        tensors,
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="pytorch")
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def torch_scores(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """What the network gives."""
    first, first_bias, second, second_bias = (numbers.astype(np.float64) for numbers in _DENSE)
    hidden = np.maximum(rows @ first.T + first_bias, 0)
    return np.asarray(1 / (1 + np.exp(-(hidden @ second.T + second_bias))))[:, 0]
