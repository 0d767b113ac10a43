"""What the confined process does with a model from outside: checks, loads, scores and explains."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.onnx import onnx_limits
from mlplatform.learning.onnx.explainer import make_explainer
from mlplatform.learning.onnx.onnx_file import OnnxFile, session
from mlplatform.model.tensors.signature import Signature, Tensors
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.sandbox.protocol import Frame

_NO_MEMORY: Final = re.compile(r"[Ff]ailed to allocate memory|bad_alloc|bad allocation")
MOST_TENSORS_TOLD: Final = 64
_PLACE: Final = re.compile(r"\S*\.(?:cc|h):\d+ ")
"""Where in ONNX Runtime's source an error arose, then the function, which tells nobody anything."""


def prepare(files: Sequence[int]) -> Callable[[Frame], Frame]:
    """The answer to requests about one model, with all that is imported late imported."""
    work = _Work()
    _try_out()
    return work.answer


class TensorsOf(msgspec.Struct, frozen=True):
    """What `Tensors` is made of, as it goes to the confined process."""

    signature: Signature
    names: tuple[str, ...]
    vocabularies: dict[str, tuple[str, ...]]


class _Work:
    """One model: its bytes, and once it is loaded what scores."""

    def __init__(self) -> None:
        self._content = b""
        self._model: OnnxFile | None = None

    def answer(self, frame: Frame) -> Frame:
        try:
            return self._DEEDS[frame.body["deed"]](self, frame)
        except InputInvalid as error:
            if _NO_MEMORY.search(error.problem):
                raise MemoryError from error
            raise InputInvalid(error.source, None, _PLACE.sub("", error.problem)) from error
        except UnicodeDecodeError as error:
            raise onnx_limits.ModelRefused("a name in it is no text in UTF-8") from error

    def _load(self, frame: Frame) -> Frame:
        self._content = frame.arrays[0].tobytes()
        facts = onnx_limits.check(onnx_limits.parsed(self._content))
        tensors = None
        if len(frame.arrays) > 1:
            told = msgspec.json.decode(frame.arrays[1].tobytes(), type=TensorsOf)
            tensors = Tensors(told.signature, told.names, told.vocabularies)
        self._model = OnnxFile(self._content, inputs=frame.body["inputs"], tensors=tensors)
        return Frame({"nodes": facts.nodes, "tensor_bytes": facts.tensor_bytes})

    def _inspect(self, frame: Frame) -> Frame:
        content = frame.arrays[0].tobytes()
        onnx_limits.check(onnx_limits.parsed(content))
        session(content)
        return Frame({})

    def _tensors(self, frame: Frame) -> Frame:
        content = frame.arrays[0].tobytes()
        onnx_limits.check(onnx_limits.parsed(content))
        running = session(content)
        return Frame(
            {
                "inputs": [_told(v) for v in running.get_inputs()[:MOST_TENSORS_TOLD]],
                "outputs": [_told(v) for v in running.get_outputs()[:MOST_TENSORS_TOLD]],
            }
        )

    def _scores(self, frame: Frame) -> Frame:
        return Frame({}, [self._loaded.run(frame.arrays[0])])

    def _seconds(self, frame: Frame) -> Frame:
        return Frame({"seconds": self._loaded.seconds(frame.arrays[0])})

    def _latencies(self, frame: Frame) -> Frame:
        calls, budget_s = frame.body["calls"], frame.body["budget_s"]
        return Frame(
            {}, [self._loaded.latencies_ms(frame.arrays[0], calls=calls, budget_s=budget_s)]
        )

    def _explain(self, frame: Frame) -> Frame:
        background, rows = frame.arrays
        made = make_explainer(self._content, self._loaded, background=background, rows=rows)
        content = [] if made.content is None else [np.frombuffer(made.content, np.uint8)]
        return Frame({"attribution": msgspec.to_builtins(made.attribution)}, content)

    @property
    def _loaded(self) -> OnnxFile:
        if self._model is None:
            raise InputInvalid("ONNX model", None, "no model is loaded")
        return self._model

    _DEEDS: Final[dict[str, Callable[[_Work, Frame], Frame]]] = {
        "load": _load,
        "inspect": _inspect,
        "tensors": _tensors,
        "scores": _scores,
        "seconds": _seconds,
        "latencies": _latencies,
        "explain": _explain,
    }


def _told(value: Any) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else None for size in value.shape]
    return {"name": value.name, "type": value.type, "shape": shape}


def _try_out() -> None:
    """Runs a small model of trees through everything: libraries import and open files at their
    first use, and there is no first use once this process is locked."""
    rows: NDArray[np.float32] = np.array([[0.0], [np.nan], [2.0]], np.float32)
    work = _Work()
    content = np.frombuffer(_small_trees(), np.uint8)
    for body, arrays in (
        ({"deed": "load", "inputs": 1}, [content]),
        ({"deed": "scores"}, [rows]),
        ({"deed": "seconds"}, [rows]),
        ({"deed": "latencies", "calls": 1, "budget_s": 1.0}, [rows]),
        ({"deed": "explain"}, [rows, rows]),
        ({"deed": "inspect"}, [content]),
        ({"deed": "tensors"}, [content]),
    ):
        work.answer(Frame(body, arrays))
    try:
        session(b"no model")
    except InputInvalid:
        return
    raise AssertionError("ONNX Runtime took what is no model")


def _small_trees() -> bytes:
    from onnx import TensorProto, helper

    fields: dict[str, Any] = {
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [0, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_values": [1.0, 0.0, 0.0],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
        "target_treeids": [0, 0],
        "target_nodeids": [1, 2],
        "target_ids": [0, 0],
        "target_weights": [0.25, 0.75],
        "n_targets": 1,
    }
    nodes = [
        helper.make_node(
            "TreeEnsembleRegressor", ["inputs"], ["column"], domain="ai.onnx.ml", **fields
        ),
        helper.make_node("Reshape", ["column", "flat"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None])],
        [helper.make_tensor("flat", TensorProto.INT64, [1], [-1])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    content: bytes = helper.make_model(
        graph, opset_imports=opsets, ir_version=9
    ).SerializeToString()
    return content
