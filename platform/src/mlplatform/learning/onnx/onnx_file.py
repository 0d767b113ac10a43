"""An ONNX file run on one thread, for training, gates and replays."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mlplatform.model.bundle import (
    AS_ONNX,
    AS_THEY_ARE,
    INPUT_NAME,
    NO_OTHER_FILE,
    OUTPUT_NAME,
)
from mlplatform.model.tensors.signature import ONNX_TYPES, Signature, Tensors
from mlplatform.runtime.canonical import digest
from mlplatform.runtime.errors import InputInvalid

MAX_MODEL_BYTES = 2**31 - 1
"""Most bytes of one ONNX file: protobuf holds no more."""
BATCH_ROWS = 8192
KEPT_ROWS = 1000
KEPT = 8
WARM_UP_CALLS = 20


Weights = Callable[[Any], None]


class ScoringSession(Protocol):
    """A loaded model, in this process or in a confined one."""

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]: ...

    def seconds(self, x: NDArray[np.float32]) -> float: ...

    def latencies_ms(
        self, rows: NDArray[np.float32], *, calls: int, budget_s: float
    ) -> NDArray[np.float64]: ...

    def close(self) -> None: ...


class ScoreCache:
    """Scores of rows that were scored before. Bands, profiles and gates look at the same days, and
    a model may take long for them."""

    def __init__(self) -> None:
        self._known: dict[str, NDArray[np.float64]] = {}

    def of(self, x: NDArray[np.float32]) -> NDArray[np.float64] | None:
        """A copy of known scores; None for rows that are new, or so few that they are scored
        again."""
        found = self._known.get(digest(x.tobytes())) if len(x) >= KEPT_ROWS else None
        return None if found is None else found.copy()

    def keep(self, x: NDArray[np.float32], scores: NDArray[np.float64]) -> None:
        if len(x) < KEPT_ROWS:
            return
        if len(self._known) == KEPT:
            self._known.clear()
        self._known[digest(x.tobytes())] = scores.copy()


class OnnxFile:
    """A model that takes "inputs" float32 [n, F] and gives "scores" float32 [n], of classes a row
    of probabilities [n, classes], or the tensors of a signature, which are made of such rows.

    In this process: for a model that was fitted here. What comes from outside goes into a
    `ConfinedModel`.

    Args:
        weights: adds the tensors that are not in the file to a session's options; None if all are
            in it.

    Raises:
        InputInvalid: the content is not an ONNX model that this machine can run, or has another
            signature.
    """

    def __init__(
        self,
        content: bytes,
        *,
        inputs: int,
        tensors: Tensors | None = None,
        weights: Weights | None = None,
        classes: int = 0,
    ) -> None:
        if len(content) > MAX_MODEL_BYTES:
            raise InputInvalid("ONNX model", None, f"more than {MAX_MODEL_BYTES} bytes")
        self._session = session(content, weights)
        self.tensors, self.classes = tensors, classes
        if tensors is None:
            self._check_signature(inputs)
        else:
            check_signature(self._session, tensors.signature)
        self._known = ScoreCache()

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """One raw score a row, or one for each class of a row; many rows that were scored before
        are not scored again.

        Raises:
            InputInvalid: the model failed on these rows, or answered with another shape.
        """
        scores = self._known.of(x)
        if scores is None:
            scores = self.run(x)
            self._known.keep(x, scores)
        return scores

    def seconds(self, x: NDArray[np.float32]) -> float:
        """The CPU seconds of this thread for these rows."""
        began = time.thread_time()
        self.run(x)
        return time.thread_time() - began

    def latencies_ms(
        self, rows: NDArray[np.float32], *, calls: int, budget_s: float
    ) -> NDArray[np.float64]:
        """Milliseconds of single-row calls, after a warm-up; fewer than asked when time is up.

        On a CPU it is the time that the one thread worked, so that a busy machine fails no model.
        """
        for i in range(min(WARM_UP_CALLS, len(rows))):
            self._run(rows[i : i + 1])
        times: list[float] = []
        stop = time.perf_counter() + budget_s
        for i in range(calls):
            row = rows[i % len(rows)][None, :]
            began = time.thread_time()
            self._run(row)
            times.append((time.thread_time() - began) * 1000)
            if time.perf_counter() > stop:
                break
        return np.array(times)

    def close(self) -> None:
        """Do nothing, because nothing is held beyond this object."""

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """The scores, in batches, whether or not they were computed before."""
        parts = [self._run(x[i : i + BATCH_ROWS]) for i in range(0, len(x), BATCH_ROWS)]
        return np.concatenate(parts) if parts else np.empty(self._shape(0))

    def _run(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        try:
            if self.tensors is None:
                scores = self._session.run([OUTPUT_NAME], {INPUT_NAME: x})[0]
            else:
                output = self._session.run([self.tensors.output], self.tensors.feeds(x))[0]
                scores = self._column(self.tensors, output, len(x))
        except _runtime_errors() as error:
            raise InputInvalid("ONNX model", None, str(error)) from error
        if scores.shape != self._shape(len(x)):
            raise InputInvalid("ONNX model", None, f"{len(x)} rows gave scores {scores.shape}")
        result: NDArray[np.float64] = scores.astype(np.float64)
        return result

    def _may_be(self, columns: Any) -> bool:
        """Whether a graph that declares such a width of its output may give the classes."""
        return not self.classes or not isinstance(columns, int) or columns == self.classes

    def _shape(self, rows: int) -> tuple[int, ...]:
        return (rows, self.classes) if self.classes else (rows,)

    @staticmethod
    def _column(tensors: Tensors, output: NDArray[Any], rows: int) -> NDArray[Any]:
        try:
            return tensors.scores(output, rows)
        except ValueError as error:
            raise InputInvalid("ONNX model", None, str(error)) from error

    def _check_signature(self, inputs: int) -> None:
        found = [_signature(v) for v in self._session.get_inputs()]
        outputs = [_signature(v) for v in self._session.get_outputs()]
        wanted_in = (INPUT_NAME, "tensor(float)", 2, inputs)
        if len(found) != 1 or found[0] != wanted_in:
            problem = f"takes {found}; wanted: {INPUT_NAME!r} float32 [n, {inputs}]"
            raise InputInvalid("ONNX model", None, problem)
        wanted = (OUTPUT_NAME, "tensor(float)", 2 if self.classes else 1)
        columns = outputs[0][3] if len(outputs) == 1 else None
        if len(outputs) != 1 or outputs[0][:3] != wanted or not self._may_be(columns):
            shape = f"[n, {self.classes}]" if self.classes else "[n]"
            problem = f"gives {outputs}; wanted: {OUTPUT_NAME!r} float32 {shape}"
            raise InputInvalid("ONNX model", None, problem)


def check_signature(running: Any, signature: Signature) -> None:
    """Check that a session takes exactly the inputs of a signature, and gives its outputs.

    Raises:
        InputInvalid: the graph differs from the signature; the message names the first such tensor.
    """
    inputs = {v.name: v for v in running.get_inputs()}
    wanted = {tensor.name for tensor in signature.inputs}
    if more := sorted(set(inputs) - wanted):
        problem = f"takes {more[0]!a}, which the signature lacks; wanted: a tensor for each input"
        raise InputInvalid("ONNX model", None, problem)
    for kind, declared, found in (
        ("takes", signature.inputs, inputs),
        ("gives", signature.outputs, {v.name: v for v in running.get_outputs()}),
    ):
        for tensor in declared:
            value = found.get(tensor.name)
            if value is None:
                names = ", ".join(f"{name!a}" for name in found)
                problem = f"{kind} no {tensor.name!a} as the signature says; it {kind} {names}"
                raise InputInvalid("ONNX model", None, problem)
            if value.type != ONNX_TYPES[tensor.dtype] or not _fits(value.shape, tensor.shape):
                actual = f"{value.type} {_dims(value.shape)}"
                problem = (
                    f"{kind} {tensor.name!a} as {actual}; the signature says {tensor.dtype} "
                    f"{_dims(tensor.shape)}"
                )
                raise InputInvalid("ONNX model", None, problem)


def _fits(found: Sequence[Any], wanted: Sequence[Any]) -> bool:
    """Whether the declared dimensions of a graph can be the wanted ones. Open dimensions fit; that
    of the rows must be open."""
    if len(found) != len(wanted) or isinstance(found[0], int):
        return False
    pairs = zip(found[1:], wanted[1:], strict=True)
    return all(not isinstance(one, int) or one == other for one, other in pairs)


def _dims(shape: Sequence[Any]) -> str:
    return "[" + ", ".join(str(d) if isinstance(d, int) else "n" for d in shape) + "]"


def session(content: bytes, weights: Weights | None = None) -> Any:
    """A session of ONNX Runtime on one thread, from these bytes and no other file.

    Args:
        weights: adds tensors from other files to the session's options. They must stay in memory
            until the session has its copy, and are not rearranged for matrix products. None if all
            are in `content`.

    Raises:
        InputInvalid: ONNX Runtime does not accept the content.
    """
    import onnxruntime as ort  # commands and fits start without ONNX Runtime

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry(*NO_OTHER_FILE)
    options.add_session_config_entry(*AS_ONNX)
    if weights is not None:
        options.add_session_config_entry(*AS_THEY_ARE)
        weights(options)
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except _runtime_errors() as error:
        raise InputInvalid("ONNX model", None, str(error)) from error


def _signature(value: Any) -> tuple[str, str, int, Any]:
    shape = value.shape
    return value.name, value.type, len(shape), shape[-1] if shape else None


def _runtime_errors() -> tuple[type[Exception], ...]:
    """ONNX Runtime's exceptions have no common base but RuntimeError and Exception itself."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented")
    runtime = ("RuntimeException", "NoSuchFile", "NoModel", "EPFail")
    return tuple(getattr(state, name) for name in names + runtime)
