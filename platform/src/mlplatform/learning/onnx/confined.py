"""A model from outside, run in a confined process: to its caller it is an `OnnxFile`."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from mlplatform.learning.onnx.explainer import BACKGROUND_ROWS, CHECKED_ROWS, Explainer
from mlplatform.learning.onnx.onnx_file import WARM_UP_CALLS, KnownScores
from mlplatform.learning.onnx.onnx_limits import MOST_BYTES, ModelRefused
from mlplatform.learning.onnx.onnx_work import TensorsOf
from mlplatform.model.bundle import Attribution
from mlplatform.model.tensors.signature import Tensors
from mlplatform.runtime.sandbox.limits import MIB, Limits
from mlplatform.runtime.sandbox.process import Sandbox, WorkRefused
from mlplatform.runtime.sandbox.protocol import Arrays, Frame

ROWS_AT_ONCE: Final = 2048
LIMITS: Final = Limits(memory_bytes=1024 * MIB, cpu_s=900)
"""Over what the libraries took. A boosting of 150 trees takes 20 MiB of it, and one of 60 MiB of
weights that is scored 2 048 rows at a time 400 MiB."""
LOAD_CPU_S: Final = 30.0
CALL_CPU_S: Final = 10.0
ROW_CPU_S: Final = 0.05
"""Of a request to score: so much for the call, and so much more for each row."""
EXPLAIN_CPU_S: Final = 240.0
MOST_EXPLAINER_BYTES: Final = 256 * MIB


class ConfinedModel:
    """A model that takes "inputs" float32 [n, F] and gives "scores" float32 [n], or the tensors of
    a signature, in a process that sees no file and reaches nobody; it ends with this object.

    Raises:
        ModelRefused: it is beyond the limits of `onnx_limits`, takes another input or gives another
            output, or took more memory or time than it may.
        Unavailable: there is no confined process to be had.
    """

    def __init__(
        self,
        content: bytes,
        *,
        inputs: int,
        limits: Limits = LIMITS,
        tensors: Tensors | None = None,
    ) -> None:
        if len(content) > MOST_BYTES:
            raise ModelRefused(f"{len(content)} bytes; the limit is {MOST_BYTES}")
        self._sandbox = Sandbox("onnx", limits)
        try:
            self.load(content, inputs=inputs, tensors=tensors)
        except ModelRefused:
            self.close()
            raise

    def load(self, content: bytes, *, inputs: int, tensors: Tensors | None = None) -> None:
        """Take another model in place of the one that is there.

        Raises:
            ModelRefused: as for the first one.
        """
        self._known = KnownScores()
        arrays = [_bytes(content)]
        if tensors is not None:
            told = TensorsOf(tensors.signature, tensors.names, tensors.vocabularies)
            arrays.append(_bytes(msgspec.json.encode(told)))
        self._ask({"deed": "load", "inputs": inputs}, arrays, LOAD_CPU_S)

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """One raw score a row; many rows that were scored before are not run again.

        Raises:
            ModelRefused: it failed on these rows, took too long, or a score is not a number.
        """
        scores = self._known.of(x)
        if scores is None:
            steps = range(0, len(x), ROWS_AT_ONCE)
            parts = [self._run(x[i : i + ROWS_AT_ONCE]) for i in steps]
            scores = np.concatenate(parts) if parts else np.empty(0)
            self._known.keep(x, scores)
        return scores

    def seconds(self, x: NDArray[np.float32]) -> float:
        """Measure the seconds that its thread works on these rows."""
        frame = self._ask({"deed": "seconds"}, [x], _allowed_s(len(x)))
        return msgspec.convert(frame.body.get("seconds"), float)

    def latencies_ms(
        self, rows: NDArray[np.float32], *, calls: int, budget_s: float
    ) -> NDArray[np.float64]:
        """As `OnnxFile.latencies_ms`, measured where it runs: without the way there and back."""
        body = {"deed": "latencies", "calls": calls, "budget_s": budget_s}
        cpu_s = budget_s + _allowed_s(WARM_UP_CALLS)
        frame = self._ask(body, [rows[:calls]], cpu_s, reply_bytes=8 * calls)
        return _numbers(frame, at_most=calls)

    def explained(self, background: NDArray[np.float32], rows: NDArray[np.float32]) -> Explainer:
        """As `make_explainer` of its content; what it made is looked at in another process, because
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
        """Stop the process; it cannot score afterwards."""
        self._sandbox.close()

    @property
    def sandbox(self) -> Sandbox:
        """The process, for code that measures what it uses."""
        return self._sandbox

    def _run(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        frame = self._ask({"deed": "scores"}, [x], _allowed_s(len(x)), reply_bytes=8 * len(x))
        scores = _numbers(frame, at_most=len(x))
        if len(scores) != len(x):
            raise ModelRefused(f"{len(x)} rows gave {len(scores)} scores")
        return scores

    def _ask(
        self, body: dict[str, Any], arrays: Arrays, cpu_s: float, reply_bytes: int = 0
    ) -> Frame:
        return _asked(self._sandbox, body, arrays, cpu_s, reply_bytes)


def inspect(content: bytes) -> None:
    """Holds a model of any signature to the limits, and loads it once, in a process of its own.

    Raises:
        ModelRefused: it is beyond them, or is not loaded.
    """
    sandbox = Sandbox("onnx", LIMITS)
    try:
        _asked(sandbox, {"deed": "inspect"}, [_bytes(content)], LOAD_CPU_S, 0)
    finally:
        sandbox.close()


class GraphTensor(msgspec.Struct, frozen=True):
    """An input or output as a graph declares it; None for a size that it leaves open."""

    name: Annotated[str, Meta(max_length=1024)]
    type: Annotated[str, Meta(max_length=64)]
    shape: tuple[int | None, ...]


class GraphTensors(msgspec.Struct, frozen=True):
    """What a graph takes and gives, the first 64 of either."""

    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]


def graph_tensors(content: bytes) -> GraphTensors:
    """What a model of any signature takes and gives, read by a process of its own.

    Raises:
        ModelRefused: it is beyond the limits, or is not loaded.
    """
    if len(content) > MOST_BYTES:
        raise ModelRefused(f"{len(content)} bytes; the limit is {MOST_BYTES}")
    sandbox = Sandbox("onnx", LIMITS)
    try:
        frame = _asked(sandbox, {"deed": "tensors"}, [_bytes(content)], LOAD_CPU_S, 0)
        return msgspec.convert(frame.body, GraphTensors)
    except msgspec.ValidationError:
        raise ModelRefused("the sandbox process sent an invalid response") from None
    finally:
        sandbox.close()


def _asked(
    sandbox: Sandbox, body: dict[str, Any], arrays: Arrays, cpu_s: float, reply_bytes: int
) -> Frame:
    try:
        return sandbox.ask(body, arrays, cpu_s=cpu_s, reply_bytes=reply_bytes)
    except WorkRefused as error:
        raise ModelRefused(str(error)) from None


def _allowed_s(rows: int) -> float:
    return CALL_CPU_S + ROW_CPU_S * rows


def _bytes(content: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(content, np.uint8)


def _numbers(frame: Frame, *, at_most: int) -> NDArray[np.float64]:
    """The one array of an answer, if it is such an array of finite numbers."""
    if len(frame.arrays) != 1 or frame.arrays[0].dtype != np.float64:
        raise ModelRefused("the sandbox process sent an invalid response")
    (found,) = frame.arrays
    if found.ndim != 1 or len(found) > at_most:
        raise ModelRefused("the sandbox process sent an invalid response")
    if not np.isfinite(found).all():
        row = int(np.argmin(np.isfinite(found)))
        raise ModelRefused(f"a row scores {found[row]}, which is no number (row {row})")
    return found
