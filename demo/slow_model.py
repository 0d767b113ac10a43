"""An ONNX model that gives the same scores as another one, and really takes long for each row.

It is what an ensemble with a far too deep neural network looks like to a server: a wide branch of
activations runs beside the trees and its vote weighs nothing. Its cost grows with the rows, so that
batches do not help. It is sized on this machine: one row alone stays inside the latency gate, a
queue of rows does not stay inside the deadline.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

WIDTH = 8192
MAXIMUM_LAYERS = 500
PROBE_LAYERS = 40
SIZING_ROUNDS = 3
ROWS_TO_TIME = 30


def slow_twin(model: bytes, target_ms: float, seed: int = 7) -> bytes:
    """The model with such a branch added, about `target_ms` a row on one thread of this machine.

    Args:
        model: ONNX with input "inputs" float [n, F] and output "scores" float [n].
        target_ms: median time of one row, milliseconds.
    """
    layers = PROBE_LAYERS
    for _ in range(SIZING_ROUNDS):
        taken_ms = _median_ms(_with_branch(model, layers, seed))
        layers = int(np.clip(round(layers * target_ms / taken_ms), PROBE_LAYERS, MAXIMUM_LAYERS))
    return _with_branch(model, layers, seed)


def _median_ms(model: bytes) -> float:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    width = session.get_inputs()[0].shape[1]
    row = np.zeros((1, width), dtype=np.float32)
    times = []
    for _ in range(ROWS_TO_TIME):
        began = time.thread_time()  # others on this machine do not make a model slow
        session.run(None, {"inputs": row})
        times.append(time.thread_time() - began)
    return float(np.median(times)) * 1000


def _with_branch(model: bytes, layers: int, seed: int) -> bytes:
    proto = onnx.load_from_string(model)
    graph = proto.graph
    features = graph.input[0].type.tensor_type.shape.dim[1].dim_value
    rng = np.random.default_rng(seed)
    for node in graph.node:
        node.output[:] = ["trees_scores" if o == "scores" else o for o in node.output]
        node.input[:] = ["trees_scores" if i == "scores" else i for i in node.input]
    enter = rng.normal(0, 0.01, (features, WIDTH)).astype(np.float32)
    leave = np.zeros((WIDTH, 1), dtype=np.float32)
    nodes = [
        helper.make_node("IsNaN", ["inputs"], ["slow_missing"]),
        helper.make_node("Where", ["slow_missing", "slow_zero", "inputs"], ["slow_filled"]),
        helper.make_node("MatMul", ["slow_filled", "slow_enter"], ["slow_0"]),
    ]
    for layer in range(layers):
        nodes.append(helper.make_node("Tanh", [f"slow_{layer}"], [f"slow_{layer + 1}"]))
    nodes += [
        helper.make_node("MatMul", [f"slow_{layers}", "slow_leave"], ["slow_vote"]),
        helper.make_node("Reshape", ["slow_vote", "slow_flat"], ["slow_vote_flat"]),
        helper.make_node("Reshape", ["trees_scores", "slow_flat"], ["trees_flat"]),
        helper.make_node("Add", ["trees_flat", "slow_vote_flat"], ["scores"]),
    ]
    graph.node.extend(nodes)
    constants = {
        "slow_enter": enter,
        "slow_leave": leave,
        "slow_zero": np.zeros((), dtype=np.float32),
        "slow_flat": np.array([-1], dtype=np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in constants.items())
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None]))
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


def main() -> None:
    """`python -m demo.slow_model BASE OUT MS`: yields to all other processes."""
    base, out, target_ms = sys.argv[1:]
    os.nice(19)
    Path(out).write_bytes(slow_twin(Path(base).read_bytes(), float(target_ms)))


if __name__ == "__main__":
    main()
