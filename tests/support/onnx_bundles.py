"""Small bundles whose ONNX model is written by hand: what it scores is known without running it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mlplatform.model.bundle import (
    MODEL_FILE,
    AlertBand,
    Bundle,
    DataWindow,
    Golden,
    View,
    write_bundle,
)
from mlplatform.model.definition import InputSpec
from mlplatform.model.policies.calibration import Calibration
from mlplatform.model.profile import Column, Profile
from mlplatform.model.rules import Reason
from mlplatform.runtime.canonical import digest

INPUTS = ("amount", "hour", "night")
OPSET = 17
SLOW = 160
"""Heaviness of a model that takes about 0.3 s a call on one core."""


def sigmoid_model(width: int = len(INPUTS), heaviness: int = 0) -> bytes:
    """scores = sigmoid(sum of a row); `heaviness` multiplications of 512x512 make it slow.

    Each keeps the size of what it multiplies: numbers that shrink from one to the next end as
    denormals, with which a multiplication takes fifty times as long.
    """
    nodes = [
        helper.make_node("ReduceSum", ["inputs", "axis"], ["total"], keepdims=0),
        helper.make_node("Sigmoid", ["total"], ["plain"]),
    ]
    weights = [numpy_helper.from_array(np.array([1], dtype=np.int64), "axis")]
    if heaviness:
        nodes += [
            helper.make_node("ReduceMean", ["plain"], ["seed"], keepdims=0),
            helper.make_node("Mul", ["matrix", "seed"], ["m0"]),
        ]
        weights += [
            numpy_helper.from_array(np.full((512, 512), 1 / 512, dtype=np.float32), "matrix"),
            numpy_helper.from_array(np.array(0, dtype=np.float32), "nothing"),
        ]
        nodes += [
            helper.make_node("MatMul", [f"m{i}", "matrix"], [f"m{i + 1}"]) for i in range(heaviness)
        ]
        nodes += [
            helper.make_node("ReduceMean", [f"m{heaviness}"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
            helper.make_node("Add", ["plain", "zero"], ["scores"]),
        ]
    else:
        nodes.append(helper.make_node("Identity", ["plain"], ["scores"]))
    graph = helper.make_graph(
        nodes,
        "sigmoid",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def sigmoid_bundle(
    folder: Path,
    *,
    model: str = "fraud",
    heaviness: int = 0,
    shift: float = 0.0,
    views: tuple[View, ...] = (),
) -> str:
    """Write such a bundle into a folder; returns its digest.

    Args:
        shift: added to the golden scores, so that the self-test fails.
    """
    data = sigmoid_model(heaviness=heaviness)
    rows = ((0.0, 0.0, 0.0), (1.0, -2.0, 0.5), (3.0, 0.0, 1.0))
    column = Column((0.0, 1.0), (0.2, 0.5, 0.3), (0.1, 0.5, 0.9), 0.5, 0.2, 0.0)
    bundle = Bundle(
        model=model,
        inputs=tuple(InputSpec(name=name, kind="field", of=name) for name in INPUTS),
        calibration=Calibration(x=(0.0, 1.0), y=(0.0, 1.0)),
        thresholds={"review": 0.5, "decline": 0.9},
        reasons={n: Reason(code=n.upper(), customer=n, analyst=n) for n in INPUTS},
        rules=(),
        reference=dict.fromkeys(INPUTS, 0.0),
        golden=Golden(
            rows=rows,
            scores=tuple(float(1 / (1 + np.exp(-sum(row)))) + shift for row in rows),
            tolerance=1e-5,
        ),
        views=views,
        profile=Profile(
            rows=100, units=50, alert_share=0.01, inputs=dict.fromkeys(INPUTS, column), score=column
        ),
        alert_band=AlertBand(low=0.0, high=0.1, share=0.01, how="by hand"),
        data=DataWindow(
            from_ms=0, holdout_from_ms=1, gates_from_ms=2, to_ms=3, as_of_ms=4, rows=100, digest="0"
        ),
        seed=0,
        origin="test",
        files={MODEL_FILE: digest(data)},
    )
    return write_bundle(bundle, data, folder)
