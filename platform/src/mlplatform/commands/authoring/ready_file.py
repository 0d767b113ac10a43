"""Texts that `mlplatform new-model --template onnx` derives from the graph of a ready ONNX file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mlplatform.learning.onnx.confined_model import GraphTensor, GraphTensors
from mlplatform.model.bundle import INPUT_NAME, OUTPUT_NAME
from mlplatform.model.consistency import OF_EVERY_REQUEST
from mlplatform.model.definition import EVENT_TIME
from mlplatform.model.policies.classes import MOST_CLASSES
from mlplatform.model.policies.decision_scale import Task
from mlplatform.model.tensors.signature import ONNX_TYPES
from mlplatform.runtime.errors import InputInvalid

MOST_COLUMNS: Final = 256
_DTYPES: Final = {onnx: dtype for dtype, onnx in ONNX_TYPES.items()}
_FLOATS: Final = ("float32", "float64")
TWO: Final = 2
_FIELDS: Final = {
    "float32": "{type: float64}",
    "float64": "{type: float64}",
    "int64": "{type: int64, minimum: 0}",
    "bool": "{type: int64, minimum: 0, maximum: 1}",
    "string": "{type: string, max_length: 50}",
}
_SEARCH: Final = re.compile(r"^  # search:.*\n(?:  #   .*\n)*", re.MULTILINE)
"""What a template says of a search, which a model without a fit can't have."""
_REQUEST: Final = re.compile(
    r"^# What an application sends.*?(?=^label:)", re.DOTALL | re.MULTILINE
)
_PLAIN_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,250}")
_WORDS: Final = frozenset(("yes", "no", "on", "off", "true", "false", "null", "n", "y"))
_CUSTOMER: Final = "customer_id"
_TAKEN: Final = _WORDS | {_CUSTOMER, EVENT_TIME, *OF_EVERY_REQUEST}
"""Names that no field of a request gets: YAML reads them as other values, or the platform uses
them."""


@dataclass(frozen=True, slots=True)
class _Column:
    """One input of the model: a field of the request that is a column of a tensor."""

    name: str
    dtype: str

    @property
    def kind(self) -> str:
        return "category" if self.dtype == "string" else "field"


@dataclass(frozen=True, slots=True)
class ReadyGraph:
    """A ready file, as far as its author and its graph describe it.

    Args:
        tensors: its inputs and outputs.
        column: the column of its output that is the score; None where the author named none.
        task: what its output is: a score, a probability for each class, or a number.
        takes_missing: whether its float inputs take NaN.
    """

    tensors: GraphTensors
    column: int | None = None
    task: Task = "binary"
    takes_missing: bool = True

    @property
    def scores(self) -> GraphTensor:
        """The output that holds the scores: the last float one.

        Raises:
            InputInvalid: no output is a float [n] or [n, columns].
        """
        found = [tensor for tensor in self.tensors.outputs if _is_output(tensor)]
        floats = [tensor for tensor in found if _DTYPES[tensor.type] in _FLOATS]
        if not floats:
            raise _wrong("it gives no float [n] or [n, columns]; wanted: an output for the score")
        return floats[-1]

    @property
    def may_take_missing(self) -> bool:
        """Whether model.yaml describes inputs that could be NaN."""
        floats = any(_DTYPES.get(t.type) in _FLOATS for t in self.tensors.inputs)
        return floats and not _is_plain(self.tensors)


def folder_files(ready: ReadyGraph, shared: str) -> dict[str, str]:
    """The texts of model.yaml, reasons.yaml and golden.json for a graph.

    Args:
        shared: text of the model.yaml of a template that trains; everything in it but the fields
            and inputs is kept.

    Raises:
        InputInvalid: a signature cannot describe an input or output of the graph, or it is not
            known which column is the score; the error names the tensor.
    """
    graph = ready.tensors
    tensors = [(tensor, _columns(tensor)) for tensor in graph.inputs]
    columns = [column for _, made in tensors for column in made]
    names = [column.name for column in columns]
    if len(set(names)) != len(names) or not 0 < len(columns) <= MOST_COLUMNS:
        raise _wrong(f"its inputs have {len(columns)} columns; wanted: 1 to {MOST_COLUMNS} by name")
    numbers = [column.name for column in columns if column.dtype != "string"]
    text = _REQUEST.sub(lambda _: _request(columns) + _signature(ready, tensors), shared)
    watched = ", ".join(numbers[:3] or names[:3])
    text = _SEARCH.sub("", text)
    text = re.sub(r"^  inputs: \[.*\]$", f"  inputs: [{watched}]", text, flags=re.MULTILINE)
    reasons = "".join(
        f"{name}: {{code: {name.upper()}, customer: {name}, analyst: {name}}}\n" for name in names
    )
    head = (
        "# One reason for every input: its code, and its words for either reader. CHANGE: yours.\n"
    )
    if ready.task == "classes":
        names = [f"class_{place}" for place in range(ready.scores.shape[-1] or 0)]
        for key, value in (("outcomes", f"[{', '.join(names)}]"), ("safe", names[0])):
            line = re.compile(rf"^  {key}: (\[.*?\]|\w+)", re.MULTILINE)
            text = line.sub(f"  {key}: {value}", text, count=1)
    return {"model.yaml": text, "reasons.yaml": head + reasons, "golden.json": "[]\n"}


def with_memory(text: str, needed_mib: int) -> str:
    """A model.yaml that gives predictors the memory that a model with data files needs."""
    line = f"serving:\n  memory_mib: {needed_mib}  # all of its weights in memory\n"
    return re.sub(r"^serving:\n", line, text, count=1, flags=re.MULTILINE)


def _request(columns: Sequence[_Column]) -> str:
    fields = "".join(f"  {column.name}: {_FIELDS[column.dtype]}\n" for column in columns)
    inputs = "".join(f"  - {{name: {c.name}, kind: {c.kind}, of: {c.name}}}\n" for c in columns)
    texts = [column.name for column in columns if column.dtype == "string"]
    words = "".join(f"  {name}: []\n" for name in texts)
    return (
        "# What an application sends, besides event_time. CHANGE: names, bounds.\n"
        f"request:\n  {_CUSTOMER}: {{type: int64, pseudonymous: true, minimum: 0}}\n{fields}\n"
        f"# The model's inputs, in order.\ninputs:\n{inputs}\n"
        + (f"# CHANGE: the words that the model knows.\nvocabularies:\n{words}\n" if words else "")
    )


def _signature(ready: ReadyGraph, tensors: Sequence[tuple[GraphTensor, Sequence[_Column]]]) -> str:
    graph = ready.tensors
    if _is_plain(graph):
        _column(ready)
        return ""
    lines = [
        "# What the graph takes and gives. CHANGE: what stands for missing values, and the score."
    ]
    lines += ["signature:", "  inputs:"]
    for tensor, columns in tensors:
        dtype, of = columns[0].dtype, ", ".join(column.name for column in columns)
        missing = ", missing: 0" if dtype in _FLOATS and not ready.takes_missing else ""
        shape = _shape(tensor, len(columns))
        name = _quoted(tensor.name)
        lines.append(f"    - {{name: {name}, dtype: {dtype}, shape: {shape}, of: [{of}]{missing}}}")
    lines.append("  outputs:")
    outputs = [tensor for tensor in graph.outputs if _is_output(tensor)]
    for tensor in outputs:
        shape = _shape(tensor, tensor.shape[-1] or 0)
        name = _quoted(tensor.name)
        lines.append(f"    - {{name: {name}, dtype: {_DTYPES[tensor.type]}, shape: {shape}}}")
    lines.append(f"  score: {{output: {_quoted(ready.scores.name)}{_column(ready)}}}")
    return "\n".join(lines) + "\n\n"


def _column(ready: ReadyGraph) -> str:
    """The score's column as a key of model.yaml: the named one, else the second of two, or the only
    one; none for classes and for an output without columns."""
    score, column = ready.scores, ready.column
    name = f"{score.name[:64]!a}"
    columns = 0 if len(score.shape) == 1 else score.shape[1] or 0
    if ready.task == "classes":
        if not TWO <= columns <= MOST_CLASSES or column is not None:
            classes = f"2 to {MOST_CLASSES}, one for each class, and no --column"
            raise _wrong(f"gives {name} of {columns} columns; wanted: {classes}")
        return ""
    if not columns:
        if column is not None:
            raise _wrong(f"gives {name} as one score a row; wanted: no --column")
        return ""
    if column is None and columns > TWO:
        one = f"--column with the one that is the score, 0 to {columns - 1}"
        raise _wrong(f"gives {name} of {columns} columns; wanted: {one}, or --task classes")
    chosen = columns - 1 if column is None else column
    if not 0 <= chosen < columns:
        raise _wrong(f"gives {name} of {columns} columns; wanted: --column 0 to {columns - 1}")
    return f", column: {chosen}"


def _columns(tensor: GraphTensor) -> list[_Column]:
    dtype, shape = _DTYPES.get(tensor.type), tensor.shape
    takes = f"takes {tensor.name[:64]!a} as {tensor.type} {_dims(shape)}"
    if dtype is None:
        cast = "export it with a Cast behind such an input"
        raise _wrong(f"{takes}; wanted: {', '.join(_DTYPES.values())}; {cast}")
    if len(shape) not in (1, 2):
        raise _wrong(f"{takes}; wanted: [n] or [n, columns], a row of a table for each request")
    if shape[0] is not None:
        open_size = "n rows at once: export it with a dynamic first dimension"
        raise _wrong(f"{takes}, always {shape[0]} rows; wanted: {open_size}")
    width = 1 if len(shape) == 1 else shape[1]
    if width is None or not 0 < width <= MOST_COLUMNS:
        raise _wrong(f"takes {tensor.name[:64]!a} of {width} columns; wanted: 1 to {MOST_COLUMNS}")
    name = re.sub(r"[^a-z0-9]+", "_", tensor.name.lower()).strip("_")[:50]
    is_free = re.match(r"[a-z]", name) is not None and name not in _TAKEN
    name = name if is_free else f"input_{name}".rstrip("_")
    if width == 1:
        return [_Column(name, dtype)]
    return [_Column(f"{name}_{number}", dtype) for number in range(width)]


def _is_plain(graph: GraphTensors) -> bool:
    """Whether the graph has one float32 matrix as input and one score as output, which need no
    signature."""
    taken = [(t.name, t.type, len(t.shape)) for t in graph.inputs]
    outputs = [(t.name, t.type, len(t.shape)) for t in graph.outputs]
    kind = ONNX_TYPES["float32"]
    return taken == [(INPUT_NAME, kind, 2)] and outputs == [(OUTPUT_NAME, kind, 1)]


def _is_output(tensor: GraphTensor) -> bool:
    known, shape = tensor.type in _DTYPES, tensor.shape
    return known and (len(shape) == 1 or (len(shape) == 2 and (shape[1] or 0) > 0))


def _dims(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("n" if size is None else str(size) for size in shape) + "]"


def _shape(tensor: GraphTensor, columns: int) -> str:
    return "[n]" if len(tensor.shape) == 1 else f"[n, {columns}]"


def _quoted(name: str) -> str:
    """A tensor's name as a YAML value."""
    if _PLAIN_NAME.fullmatch(name) and name.lower() not in _WORDS:
        return name
    if not name.isprintable() or len(name) > 250:
        raise _wrong(f"a tensor is named {name[:64]!a}; wanted: a name that can be written")
    return "'" + name.replace("'", "''") + "'"


def _wrong(problem: str) -> InputInvalid:
    return InputInvalid("ONNX model", None, problem)
