"""The work of the confined process on a model from outside: check, load, score and explain."""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.onnx import onnx_limits
from mlplatform.learning.onnx.explainer import make_explainer
from mlplatform.learning.onnx.onnx_file import OnnxFile, Weights, session
from mlplatform.model.tensors.signature import Signature, Tensors
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.sandbox.protocol import Frame

_NO_MEMORY: Final = re.compile(r"[Ff]ailed to allocate memory|bad_alloc|bad allocation")
MOST_TENSORS_LISTED: Final = 64
_PLACE: Final = re.compile(r"\S*\.(?:cc|h):\d+ ")
"""Pattern of the place and function in ONNX Runtime's source in an error's text, which tell nobody
anything."""


_NUMBERS: Final = {
    **{1: "<f4", 2: "|u1", 3: "|i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 9: "|b1"},
    **{10: "<f2", 11: "<f8", 12: "<u4", 13: "<u8", 16: "<u2"},
}
"""TensorProto.DataType → type of the numbers in a data file; NumPy has no bfloat16."""


def prepare(files: Sequence[int]) -> Callable[[Frame], Frame]:
    """The function that answers requests about one model; it has imported everything that libraries
    import late.

    Args:
        files: descriptors of the data files. They are mapped at once, because the process can't
            open files after it is locked.
    """
    work = _Work([mmap.mmap(file, 0, mmap.MAP_SHARED, mmap.PROT_READ) for file in files])
    _try_out()
    return work.handle


class TensorsMessage(msgspec.Struct, frozen=True):
    """The fields of `Tensors`, as they are sent to the confined process."""

    signature: Signature
    names: tuple[str, ...]
    vocabularies: dict[str, tuple[str, ...]]


class _Work:
    """One model: its bytes and, once it is loaded, its session.

    Args:
        data: contents of the data files; their names come with the first request to load.
    """

    def __init__(self, data: Sequence[mmap.mmap] = ()) -> None:
        self._data = data
        self._content = b""
        self._model: OnnxFile | None = None

    def handle(self, frame: Frame) -> Frame:
        try:
            return self._DEEDS[frame.body["deed"]](self, frame)
        except InputInvalid as error:
            if _NO_MEMORY.search(error.problem):
                raise MemoryError from error
            raise InputInvalid(error.source, None, _PLACE.sub("", error.problem)) from error
        except UnicodeDecodeError as error:
            raise onnx_limits.ModelRefused("a name in it is not valid UTF-8") from error

    def _load(self, frame: Frame) -> Frame:
        self._content = frame.arrays[0].tobytes()
        facts, weights = self._checked(frame, self._content)
        tensors, classes = None, frame.body.get("classes", 0)
        if len(frame.arrays) > 1:
            described = msgspec.json.decode(frame.arrays[1].tobytes(), type=TensorsMessage)
            tensors = Tensors(
                described.signature, described.names, described.vocabularies, classes=classes
            )
        self._model = OnnxFile(
            self._content,
            inputs=frame.body["inputs"],
            tensors=tensors,
            weights=weights,
            classes=classes,
        )
        return Frame({"nodes": facts.nodes, "tensor_bytes": facts.tensor_bytes})

    def _inspect(self, frame: Frame) -> Frame:
        content = frame.arrays[0].tobytes()
        onnx_limits.check(onnx_limits.parsed(content))
        session(content)
        return Frame({})

    def _tensors(self, frame: Frame) -> Frame:
        content = frame.arrays[0].tobytes()
        _, weights = self._checked(frame, content)
        running = session(content, weights)
        return Frame(
            {
                "inputs": [_tensor(v) for v in running.get_inputs()[:MOST_TENSORS_LISTED]],
                "outputs": [_tensor(v) for v in running.get_outputs()[:MOST_TENSORS_LISTED]],
            }
        )

    def _files(self, frame: Frame) -> Frame:
        return Frame(
            {"files": onnx_limits.data_files(onnx_limits.parsed(frame.arrays[0].tobytes()))}
        )

    def _checked(
        self, frame: Frame, content: bytes
    ) -> tuple[onnx_limits.ModelFacts, Weights | None]:
        """The facts of a model that is within the limits, and the function that adds its tensors
        from data files."""
        data = dict(zip(frame.body.get("data", ()), self._data, strict=True))
        sizes = {name: len(file) for name, file in data.items()}
        facts = onnx_limits.check(onnx_limits.parsed(content), sizes)
        if not facts.data:
            return facts, None
        return facts, lambda options: _add_tensors(options, facts.data, data)

    def _scores(self, frame: Frame) -> Frame:
        return Frame({}, [self._loaded.run(frame.arrays[0]).reshape(-1)])

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
        "files": _files,
        "scores": _scores,
        "seconds": _seconds,
        "latencies": _latencies,
        "explain": _explain,
    }


def _add_tensors(
    options: Any, tensors: Sequence[onnx_limits.DataTensor], data: Mapping[str, mmap.mmap]
) -> None:
    from onnxruntime import OrtValue  # only where there are weights beside the graph

    names, values = [], []
    for tensor in tensors:
        numbers = np.dtype(_NUMBERS[tensor.kind])
        count = tensor.length // numbers.itemsize
        held = np.frombuffer(data[tensor.file], numbers, count, tensor.offset)
        shaped = held.reshape(tensor.shape)
        names.append(tensor.name)
        values.append(OrtValue.ortvalue_from_numpy_with_onnx_type(shaped, tensor.kind))
    options.add_external_initializers(names, values)


def _tensor(value: Any) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else None for size in value.shape]
    return {"name": value.name, "type": value.type, "shape": shape}


def _try_out() -> None:
    """Run a small model of trees through everything. Libraries import and open files at their first
    use, which must come before this process is locked."""
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
        ({"deed": "files"}, [content]),
    ):
        work.handle(Frame(body, arrays))
    try:
        session(b"no model")
    except InputInvalid:
        return
    raise AssertionError("ONNX Runtime took a file that is not a model")


def _small_trees() -> bytes:
    from onnx import TensorProto, helper  # commands start without onnx

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
