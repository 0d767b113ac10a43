"""Limits of an ONNX model from outside, checked on its parsed form before it runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlplatform.model.weights.data_files import MOST_FILES, name_problem
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.units import KIB, MIB

if TYPE_CHECKING:  # commands start without onnx
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

MOST_BYTES: Final = 64 * MIB
MOST_NODES: Final = 5_000
MOST_TENSORS: Final = 5_000
MOST_TENSOR_BYTES: Final = 64 * MIB
MOST_ENTRIES: Final = 16_000_000
"""Most entries of all attributes together; a node of a tree ensemble takes about ten."""
MOST_STRING_BYTES: Final = 1_024
MOST_TEXT_BYTES: Final = 256 * KIB
"""Most bytes of documentation and metadata, which nothing reads."""
MOST_RANK: Final = 8
MOST_ENDS: Final = 4_096
"""Most inputs and outputs of one node, and most attributes of one."""
MOST_VALUES: Final = 20_000
"""Most described values between nodes, inputs and outputs included."""

_PLAIN: Final = """
        Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh BatchNormalization BitwiseAnd
        BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip Compress Concat Constant Cos
        Cosh CumSum DequantizeLinear Div DynamicQuantizeLinear Elu Equal Erf Exp Flatten
        Floor Gather GatherElements GatherND Gelu Gemm Greater GreaterOrEqual HardSigmoid HardSwish
        Hardmax Identity IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log
        LogSoftmax LpNormalization MatMul MatMulInteger Max Mean Min Mish Mod Mul Neg Not Or PRelu
        Pow QLinearMatMul QuantizeLinear RMSNormalization Reciprocal ReduceL1 ReduceL2
        ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
        ReduceSumSquare Relu Reshape Round ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign
        Sin Sinh Size Slice Softmax Softplus Softsign Split Sqrt Squeeze Sub Sum Swish Tan Tanh
        ThresholdedRelu TopK Transpose Trilu Unsqueeze Where Xor
"""
_LEARNED: Final = """
        ArrayFeatureExtractor Binarizer FeatureVectorizer Imputer LabelEncoder LinearClassifier
        LinearRegressor Normalizer OneHotEncoder SVMClassifier SVMRegressor Scaler TreeEnsemble
        TreeEnsembleClassifier TreeEnsembleRegressor
"""
OPERATORS: Final = {"": frozenset(_PLAIN.split()), "ai.onnx.ml": frozenset(_LEARNED.split())}
"""Operators that a model of requests may have."""

_DOMAINS: Final = {"ai.onnx": ""}
_ITEM_BYTES: Final = {
    1: 4,
    2: 1,
    3: 1,
    4: 2,
    5: 2,
    6: 4,
    7: 8,
    9: 1,
    10: 2,
    11: 8,
    12: 4,
    13: 8,
    16: 2,
}
"""TensorProto.DataType → bytes of an element: floats, integers and booleans, not complex or packed
numbers."""
_TEXT: Final = 8
TEXT_BYTES: Final = 32
"""Bytes that a text takes beside its own."""
_STORED_IN: Final = {
    1: "float_data", 11: "double_data", 7: "int64_data", 12: "uint64_data", 13: "uint64_data",
}  # fmt: skip
_PLACE_KEYS: Final = frozenset(("location", "offset", "length", "checksum"))
_ONNX: Final = "wanted: a file that a library's exporter to ONNX has written"
_WAY_OUT: Final = "export the model without it, or score with it where it was made"


class ModelRefused(InputInvalid):
    """A model from outside is refused; the message names what in it is the reason."""

    def __init__(self, problem: str) -> None:
        super().__init__("ONNX model", None, problem)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The facts of a model that is within the limits."""

    nodes: int
    tensors: int
    tensor_bytes: int
    entries: int
    data: tuple[DataTensor, ...] = ()


@dataclass(frozen=True, slots=True)
class DataTensor:
    """A tensor whose numbers are in a data file.

    Args:
        kind: element type, a number of `TensorProto.DataType`.
        offset, length: position in the file, and size, in bytes.
    """

    name: str
    kind: int
    shape: tuple[int, ...]
    file: str
    offset: int
    length: int


def parsed(content: bytes) -> ModelProto:
    """The model in a file's bytes; no other file is read.

    Raises:
        ModelRefused: the content is too large, or is not ONNX.
    """
    from google.protobuf.message import DecodeError  # commands start without onnx
    from onnx import ModelProto

    if len(content) > MOST_BYTES:
        raise ModelRefused(beyond(len(content)))
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except (DecodeError, RecursionError, ValueError) as error:
        raise ModelRefused(f"not ONNX: its bytes are not read as a model; {_ONNX}") from error
    return model


def beyond(size: int) -> str:
    """The message for a graph that is too large."""
    hint = "save its weights as external data, in files beside it"
    return f"{size} bytes; the limit is {MOST_BYTES}: {hint}"


def data_files(model: ModelProto) -> list[str]:
    """Names of the files that hold the model's tensors.

    Raises:
        ModelRefused: a file is not in the model's own folder, or there are too many files.
    """
    found = dict.fromkeys(
        _location(tensor) for tensor in model.graph.initializer if _is_outside(tensor)
    )
    _most("files of tensors", len(found), MOST_FILES)
    return list(found)


def check(model: ModelProto, data: Mapping[str, int] | None = None) -> ModelFacts:
    """The facts of the model, if it is within the limits.

    Args:
        data: file name → size in bytes of each data file beside the model; None: there is none.

    Raises:
        ModelRefused: the model exceeds a limit; the message says which one, and what to do.
    """
    if model.functions or model.training_info or model.configuration:
        raise ModelRefused(f"it has functions, training or devices of its own; {_WAY_OUT}")
    for opset in model.opset_import:
        if _domain(opset.domain) not in OPERATORS:
            raise ModelRefused(f"operators of domain {_printable(opset.domain)}; {_WAY_OUT}")
    graph = model.graph
    _check_counts(graph)
    _check_texts(model)
    inside = [t for t in graph.initializer if not _is_outside(t)]
    inside += _attribute_tensors(graph)
    outside = tuple(
        _data_tensor(tensor, data or {}) for tensor in graph.initializer if _is_outside(tensor)
    )
    _most("bytes of data files", sum(t.length for t in outside), sum((data or {}).values()))
    total = 0
    _most("tensors", len(inside) + len(outside), MOST_TENSORS)
    for tensor in inside:
        total += _tensor_bytes(tensor)
        _most("bytes of tensors", total, MOST_TENSOR_BYTES)
    entries = sum(_check_node(node) for node in graph.node)
    _most("entries of attributes", entries, MOST_ENTRIES)
    return ModelFacts(len(graph.node), len(inside) + len(outside), total, entries, outside)


def _check_counts(graph: GraphProto) -> None:
    _most("nodes", len(graph.node), MOST_NODES)
    _most("metadata", len(graph.metadata_props), MOST_ENDS)
    _most("tensors", len(graph.initializer), MOST_TENSORS)
    values = len(graph.value_info) + len(graph.input) + len(graph.output)
    _most("described values", values, MOST_VALUES)
    if graph.sparse_initializer:
        raise ModelRefused(f"it has sparse tensors; {_WAY_OUT}")
    if graph.quantization_annotation:
        raise ModelRefused(f"it has annotations of quantization; {_WAY_OUT}")
    for value in (*graph.input, *graph.output, *graph.value_info):
        _check_name(value.name)
        if value.type.WhichOneof("value") not in (None, "tensor_type"):
            hint = 'skl2onnx: options={"zipmap": False}'
            raise ModelRefused(f"{_printable(value.name)} is not a tensor; {_WAY_OUT} ({hint})")
        dims = value.type.tensor_type.shape.dim
        _most(f"dimensions of {_printable(value.name)}", len(dims), MOST_RANK)
        for dim in dims:
            _check_name(dim.dim_param)


def _check_texts(model: ModelProto) -> None:
    graph = model.graph
    texts = [model.doc_string, model.producer_name, model.producer_version, model.domain]
    texts += [graph.doc_string, graph.name]
    texts += [text for p in model.metadata_props for text in (p.key, p.value)]
    texts += [text for p in graph.metadata_props for text in (p.key, p.value)]
    texts += [n.doc_string for n in graph.node] + [t.doc_string for t in graph.initializer]
    texts += [v.doc_string for v in (*graph.input, *graph.output, *graph.value_info)]
    texts += [p.value for n in graph.node for p in n.metadata_props]
    _most("bytes of documentation", sum(map(len, texts)), MOST_TEXT_BYTES)


def _check_node(node: NodeProto) -> int:
    """The number of entries of a node's attributes."""
    domain = _domain(node.domain)
    if node.op_type not in OPERATORS.get(domain, ()):
        which = f"{domain}.{node.op_type}" if domain else node.op_type
        raise ModelRefused(
            f"operator {_printable(which)} is not on the list of those that are run here;"
            f" {_WAY_OUT}"
        )
    ends = max(len(node.input) + len(node.output), len(node.attribute), len(node.metadata_props))
    _most("inputs, outputs or attributes of a node", ends, MOST_ENDS)
    for name in (node.name, node.overload, *node.input, *node.output):
        _check_name(name)
    return len(node.input) + len(node.output) + sum(_entries(a) for a in node.attribute)


def _entries(attribute: AttributeProto) -> int:
    _check_name(attribute.name)
    if attribute.HasField("g") or attribute.graphs:
        raise ModelRefused(f"it has a graph within a node; {_WAY_OUT}")
    if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
        raise ModelRefused(f"it has sparse tensors; {_WAY_OUT}")
    if attribute.HasField("tp") or attribute.type_protos or attribute.tensors:
        raise ModelRefused(f"it has an attribute that is not a number, text or tensor; {_WAY_OUT}")
    if attribute.ref_attr_name:
        raise ModelRefused(f"it has an attribute of a function; {_WAY_OUT}")
    for text in (attribute.s, *attribute.strings):
        _most("bytes of a text", len(text), MOST_STRING_BYTES)
    return 1 + len(attribute.floats) + len(attribute.ints) + len(attribute.strings)


def _attribute_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def _is_outside(tensor: TensorProto) -> bool:
    return bool(tensor.external_data) or tensor.data_location != 0


def _location(tensor: TensorProto) -> str:
    """The name of the file that holds a tensor, without a folder."""
    named, found = _printable(tensor.name), _entries_of(tensor).get("location", "")
    if problem := name_problem(found):
        raise ModelRefused(
            f"tensor {named} lies in another file, {_printable(found)}, {problem}; save the data"
            " in files beside the model"
        )
    return found


def _entries_of(tensor: TensorProto) -> dict[str, str]:
    _most("entries of a tensor's place", len(tensor.external_data), len(_PLACE_KEYS))
    return {entry.key: entry.value for entry in tensor.external_data}


def _data_tensor(tensor: TensorProto, data: Mapping[str, int]) -> DataTensor:
    """The place of a tensor in a data file, within the file and as long as the tensor declares.

    Source: onnx.proto, TensorProto.external_data.
    """
    named, file, entries = _printable(tensor.name), _location(tensor), _entries_of(tensor)
    _check_name(tensor.name)
    if file not in data:
        raise ModelRefused(
            f"tensor {named} lies in another file, {_printable(file)}, which is not there; put it "
            "beside the model, or save all data in one file"
        )
    if not tensor.name or tensor.data_type not in _ITEM_BYTES or _holds_numbers(tensor):
        raise ModelRefused(
            f"tensor {named} in {_printable(file)} holds no plain numbers; {_WAY_OUT}"
        )
    if unknown := sorted(set(entries) - _PLACE_KEYS):
        raise ModelRefused(
            f"tensor {named} has an unknown entry {_printable(unknown[0])}; {_WAY_OUT}"
        )
    shape = _shape(tensor, named)
    declared = math.prod(shape) * _ITEM_BYTES[tensor.data_type]
    offset, length = (
        _whole(named, entries.get(key, left_out))
        for key, left_out in (("offset", "0"), ("length", str(declared)))
    )
    if length != declared or offset + length > data[file]:
        raise ModelRefused(
            f"tensor {named} declares {declared} bytes; its data is {length} bytes from byte "
            f"{offset} of {_printable(file)}, and that file has {data[file]} bytes"
        )
    return DataTensor(tensor.name, tensor.data_type, shape, file, offset, length)


def _holds_numbers(tensor: TensorProto) -> bool:
    """Whether the tensor has numbers of its own, beside those in a data file."""
    return tensor.HasField("segment") or tensor.HasField("raw_data") or _stored_count(tensor) > 0


def _whole(named: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ModelRefused(
            f"tensor {named} lies at {_printable(text)}, which is not a place in a file"
        )
    return int(text)


def _tensor_bytes(tensor: TensorProto) -> int:
    """The bytes of a tensor's elements, by its declared dimensions; all of them must be in the
    file."""
    named = _printable(tensor.name)
    _check_name(tensor.name)
    if _is_outside(tensor):
        raise ModelRefused(
            f"tensor {named} of a node lies in another file; save it as an initializer"
        )
    if tensor.data_type == _TEXT:
        return _text_bytes(tensor, named)
    if tensor.HasField("segment") or tensor.data_type not in _ITEM_BYTES:
        raise ModelRefused(f"tensor {named} holds no plain numbers; {_WAY_OUT}")
    declared: int = math.prod(_shape(tensor, named)) * _ITEM_BYTES[tensor.data_type]
    _most("bytes of tensors", declared, MOST_TENSOR_BYTES)
    if declared != (held := _held_bytes(tensor)):
        raise ModelRefused(f"tensor {named} declares {declared} bytes and holds {held}")
    return declared


def _shape(tensor: TensorProto, named: str) -> tuple[int, ...]:
    _most(f"dimensions of {named}", len(tensor.dims), MOST_RANK)
    if any(size < 0 for size in tensor.dims):
        raise ModelRefused(f"tensor {named} has a dimension below zero")
    return tuple(tensor.dims)


def _text_bytes(tensor: TensorProto, named: str) -> int:
    _most(f"dimensions of {named}", len(tensor.dims), MOST_RANK)
    if any(size < 0 for size in tensor.dims) or math.prod(tensor.dims) != len(tensor.string_data):
        raise ModelRefused(f"tensor {named} does not hold the texts that it declares")
    for text in tensor.string_data:
        _most("bytes of a text", len(text), MOST_STRING_BYTES)
    return sum(len(text) + TEXT_BYTES for text in tensor.string_data)


def _held_bytes(tensor: TensorProto) -> int:
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    return _stored_count(tensor) * _ITEM_BYTES[tensor.data_type]


def _stored_count(tensor: TensorProto) -> int:
    stored: Any = getattr(tensor, _STORED_IN.get(tensor.data_type, "int32_data"))
    return len(stored)


def _check_name(name: str) -> None:
    _most("bytes of a name", len(name), MOST_STRING_BYTES)


def _most(what: str, found: int, limit: int) -> None:
    if found > limit:
        raise ModelRefused(f"{found} {what}; the limit is {limit}")


def _domain(name: str) -> str:
    return _DOMAINS.get(name, name)


def _printable(name: str) -> str:
    """A name from the file as text that a line can show."""
    return ascii(name[:64])
