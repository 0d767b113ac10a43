"""A model from outside in a confined process; its caller sees an `OnnxFile`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated, Any, Final, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from mlplatform.learning.onnx.explainer import BACKGROUND_ROWS, CHECKED_ROWS, Explainer
from mlplatform.learning.onnx.onnx_file import WARM_UP_CALLS, ScoreCache
from mlplatform.learning.onnx.onnx_limits import MOST_BYTES, ModelRefused, beyond
from mlplatform.learning.onnx.onnx_work import TensorsMessage, prepare
from mlplatform.model.bundle import Attribution
from mlplatform.model.tensors.signature import Tensors
from mlplatform.model.weights.data_files import MOST_NAME_BYTES, DataFile, name_problem
from mlplatform.model.weights.memory import OF_DATA, shortage
from mlplatform.runtime.processes.memory import free_memory_bytes
from mlplatform.runtime.sandbox.limits import ProcessLimits
from mlplatform.runtime.sandbox.process import Sandbox, WorkRefused
from mlplatform.runtime.sandbox.protocol import Arrays, Frame
from mlplatform.runtime.units import GIB, MIB

ROWS_AT_ONCE: Final = 2048
LIMITS: Final = ProcessLimits(memory_bytes=GIB, cpu_s=900)
"""Limits of the process, beyond what the libraries take. A boosting of 150 trees takes 20 MiB, and
a model with 60 MiB of weights that scores 2 048 rows at a time 400 MiB."""
LOAD_CPU_S: Final = 30.0
CALL_CPU_S: Final = 10.0
ROW_CPU_S: Final = 0.05
"""Most CPU seconds for each row of a request to score, in addition to `CALL_CPU_S`."""
DATA_BYTES_PER_CPU_S: Final = 100_000_000
"""Bytes of data files for each CPU second of loading a model: they are read and copied."""
DATA_BYTES_PER_ROW_CPU_S: Final = 2_000_000_000
"""Bytes of data files for each CPU second of a row, which may need every number; many rows at once
need less each."""
EXPLAIN_CPU_S: Final = 240.0
PLACE_KEY: Final = b"location"
"""Text in every file that has a tensor elsewhere."""
_INVALID: Final = "the sandbox process sent an invalid response"
MOST_EXPLAINER_BYTES: Final = 256 * MIB


_Kind = TypeVar("_Kind")


class ConfinedModel:
    """A model that takes "inputs" float32 [n, F] and gives "scores" float32 [n], of classes
    [n, classes], or the tensors of a signature, in a process that sees no file and reaches nobody;
    it ends with this object.

    Args:
        data: files with weights of the model. The process gets them as open files and copies their
            content.

    Raises:
        ModelRefused: the model exceeds the limits of `onnx_limits`, has another input or output, or
            needs more memory or time than is allowed.
        Unavailable: the confined process can't be started.
    """

    def __init__(
        self,
        content: bytes,
        *,
        inputs: int,
        limits: ProcessLimits = LIMITS,
        tensors: Tensors | None = None,
        data: Sequence[DataFile] = (),
        classes: int = 0,
    ) -> None:
        if len(content) > MOST_BYTES:
            raise ModelRefused(beyond(len(content)))
        self._sandbox, self._data = _sandbox(limits, data), tuple(data)
        try:
            self.load(content, inputs=inputs, tensors=tensors, classes=classes)
        except ModelRefused:
            self.close()
            raise

    def load(
        self, content: bytes, *, inputs: int, tensors: Tensors | None = None, classes: int = 0
    ) -> None:
        """Replace the model by another one.

        Raises:
            ModelRefused: for the same reasons as for the first model.
        """
        self._known, self._classes = ScoreCache(), classes
        arrays = [_bytes(content)]
        if tensors is not None:
            described = TensorsMessage(tensors.signature, tensors.names, tensors.vocabularies)
            arrays.append(_bytes(msgspec.json.encode(described)))
        body = {"deed": "load", "inputs": inputs, "classes": classes, **_names(self._data)}
        self._ask(body, arrays, _loading_s(self._data))

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """One raw score a row, or one for each class of a row; many rows that were scored before
        are not scored again.

        Raises:
            ModelRefused: the model failed on these rows or took too long, or a score is not a
                number.
        """
        scores = self._known.of(x)
        if scores is None:
            steps = range(0, len(x), ROWS_AT_ONCE)
            parts = [self._run(x[i : i + ROWS_AT_ONCE]) for i in steps]
            scores = np.concatenate(parts) if parts else self._shaped(np.empty(0), 0)
            self._known.keep(x, scores)
        return scores

    def seconds(self, x: NDArray[np.float32]) -> float:
        """The CPU seconds for these rows, measured in the process."""
        frame = self._ask({"deed": "seconds"}, [x], self._allowed_s(len(x)))
        return msgspec.convert(frame.body.get("seconds"), float)

    def latencies_ms(
        self, rows: NDArray[np.float32], *, calls: int, budget_s: float
    ) -> NDArray[np.float64]:
        """The `OnnxFile.latencies_ms`, measured in the process, without the transfer."""
        body = {"deed": "latencies", "calls": calls, "budget_s": budget_s}
        cpu_s = budget_s + self._allowed_s(WARM_UP_CALLS + 1)
        frame = self._ask(body, [rows[:calls]], cpu_s, reply_bytes=8 * calls)
        return _numbers(frame, at_most=calls)

    def explained(self, background: NDArray[np.float32], rows: NDArray[np.float32]) -> Explainer:
        """An explainer of its content by `make_explainer`. Another process checks it, because
        predictors and gateways will load it."""
        step = max(1, len(background) // BACKGROUND_ROWS)
        arrays = [background[::step], rows[:CHECKED_ROWS]]
        frame = self._ask({"deed": "explain"}, arrays, EXPLAIN_CPU_S, MOST_EXPLAINER_BYTES)
        try:
            attribution = msgspec.convert(frame.body.get("attribution"), Attribution)
        except msgspec.ValidationError:
            raise ModelRefused("the sandbox process sent an invalid explanation") from None
        content = frame.arrays[0].tobytes() if frame.arrays else None
        if content is not None:
            inspect(content)
        return Explainer(attribution, content)

    def close(self) -> None:
        """Stop the process; the model cannot score afterwards."""
        self._sandbox.close()

    @property
    def sandbox(self) -> Sandbox:
        """The confined process, for code that measures its use."""
        return self._sandbox

    def _run(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        count = len(x) * max(1, self._classes)
        frame = self._ask({"deed": "scores"}, [x], self._allowed_s(len(x)), reply_bytes=8 * count)
        scores = _numbers(frame, at_most=count)
        if len(scores) != count:
            raise ModelRefused(f"{len(x)} rows gave {len(scores)} scores; wanted: one for each row")
        return self._shaped(scores, len(x))

    def _shaped(self, scores: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
        return scores.reshape(rows, self._classes) if self._classes else scores

    def _allowed_s(self, rows: int) -> float:
        row_s = ROW_CPU_S + sum(f.size for f in self._data) / DATA_BYTES_PER_ROW_CPU_S
        return CALL_CPU_S + row_s * rows

    def _ask(
        self, body: dict[str, Any], arrays: Arrays, cpu_s: float, reply_bytes: int = 0
    ) -> Frame:
        return _reply_of(self._sandbox, body, arrays, cpu_s, reply_bytes)


def inspect(content: bytes) -> None:
    """Check a model of any signature against the limits, and load it once in a process of its own.

    Raises:
        ModelRefused: the model exceeds the limits, or can't be loaded.
    """
    sandbox = Sandbox(prepare, LIMITS)
    try:
        _reply_of(sandbox, {"deed": "inspect"}, [_bytes(content)], LOAD_CPU_S, 0)
    finally:
        sandbox.close()


class GraphTensor(msgspec.Struct, frozen=True):
    """An input or output as a graph declares it; None for a size that the graph leaves open."""

    name: Annotated[str, Meta(max_length=1024)]
    type: Annotated[str, Meta(max_length=64)]
    shape: tuple[int | None, ...]


class GraphTensors(msgspec.Struct, frozen=True):
    """The inputs and outputs of a graph, the first 64 of each."""

    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]


def graph_tensors(content: bytes, data: Sequence[DataFile] = ()) -> GraphTensors:
    """The inputs and outputs of a model of any signature, read by a process of its own.

    Raises:
        ModelRefused: the model exceeds the limits, or can't be loaded.
    """
    body = {"deed": "tensors", **_names(data)}
    frame = _run_once(body, content, _loading_s(data), data)
    return _converted(frame, GraphTensors)


class DataNames(msgspec.Struct, frozen=True):
    """Names of the files that hold a graph's tensors."""

    files: tuple[Annotated[str, Meta(max_length=MOST_NAME_BYTES)], ...]


def data_file_names(content: bytes) -> tuple[str, ...]:
    """Names of the files beside a model that hold its tensors, read by a process of its own; none
    for a model in one file.

    Raises:
        ModelRefused: the model can't be read, or a tensor lies outside of the model's folder.
    """
    if PLACE_KEY not in content:
        return ()
    frame = _run_once({"deed": "files"}, content, LOAD_CPU_S)
    names = _converted(frame, DataNames).files
    if any(map(name_problem, names)):
        raise ModelRefused(_INVALID)
    return names


def _run_once(
    body: dict[str, Any], content: bytes, cpu_s: float, data: Sequence[DataFile] = ()
) -> Frame:
    if len(content) > MOST_BYTES:
        raise ModelRefused(beyond(len(content)))
    sandbox = _sandbox(LIMITS, data)
    try:
        return _reply_of(sandbox, body, [_bytes(content)], cpu_s, 0)
    finally:
        sandbox.close()


def _converted(frame: Frame, kind: type[_Kind]) -> _Kind:
    try:
        return msgspec.convert(frame.body, kind)
    except msgspec.ValidationError:
        raise ModelRefused(_INVALID) from None


def _sandbox(limits: ProcessLimits, data: Sequence[DataFile]) -> Sandbox:
    """A process with these files open, which may take as much more memory as they have bytes.

    Raises:
        ModelRefused: this machine has less free memory than the model needs.
    """
    size = sum(file.size for file in data)
    wanted = round(OF_DATA * size) + limits.memory_bytes
    if data and (problem := shortage(wanted, free_memory_bytes(), what="it", whose="this machine")):
        raise ModelRefused(f"{problem} free")
    wider = msgspec.structs.replace(
        limits,
        memory_bytes=wanted,
        cpu_s=limits.cpu_s + size // DATA_BYTES_PER_CPU_S,
    )
    with ExitStack() as opened:
        files = []
        for file in data:
            files.append(os.open(file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
            opened.callback(os.close, files[-1])
        return Sandbox(prepare, wider, files)


def _names(data: Sequence[DataFile]) -> dict[str, list[str]]:
    return {"data": [file.name for file in data]} if data else {}


def _loading_s(data: Sequence[DataFile]) -> float:
    return LOAD_CPU_S + sum(file.size for file in data) / DATA_BYTES_PER_CPU_S


def _reply_of(
    sandbox: Sandbox, body: dict[str, Any], arrays: Arrays, cpu_s: float, reply_bytes: int
) -> Frame:
    try:
        return sandbox.ask(body, arrays, cpu_s=cpu_s, reply_bytes=reply_bytes)
    except WorkRefused as error:
        raise ModelRefused(str(error)) from None


def _bytes(content: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(content, np.uint8)


def _numbers(frame: Frame, *, at_most: int) -> NDArray[np.float64]:
    """The only array of an answer, if it is one of finite numbers."""
    if len(frame.arrays) != 1 or frame.arrays[0].dtype != np.float64:
        raise ModelRefused(_INVALID)
    (found,) = frame.arrays
    if found.ndim != 1 or len(found) > at_most:
        raise ModelRefused(_INVALID)
    if not np.isfinite(found).all():
        row = int(np.argmin(np.isfinite(found)))
        raise ModelRefused(f"row {row} has the score {found[row]}; wanted: a finite number")
    return found
