"""A bundle's model, ready to score: loaded, warmed up, and checked against its golden rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnxruntime

from mlplatform.model.bundle import MODEL_FILE, load_bundle
from mlplatform.model.tensors.named_tensors import NamedTensors
from mlplatform.model.tensors.signature import Tensors
from mlplatform.model.weights.data_files import DataFile, data_of
from mlplatform.model.weights.memory import needed_bytes, shortage
from mlplatform.rollouts.serving.names import ServiceName
from mlplatform.runtime.errors import Corrupt, Refused
from mlplatform.runtime.processes.memory import memory_bytes
from mlplatform.scoring.predictor import providers
from mlplatform.scoring.predictor.protocol import DATATYPE, INPUT, OUTPUT, Floats
from mlplatform.scoring.predictor.providers import Accelerator, Hardware, hardware

WARM_UP_ROWS: Final = (1, 2, 8, 32, 128, 512)
WARM_UP_REPEATS: Final = 5
WARM_UP_LIMIT_S: Final = 0.25
"""Seconds of one batch above which larger batches are not tried in warm-up: they would only delay
the start."""

INLINE_LIMIT_S: Final = 200e-6
"""Seconds above which a call leaves the event loop, so that health checks stay responsive."""

RuntimeFailure = (
    onnxruntime.capi.onnxruntime_pybind11_state.EPFail,
    onnxruntime.capi.onnxruntime_pybind11_state.Fail,
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument,
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidGraph,
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidProtobuf,
    onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented,
    onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException,
)
"""Errors of ONNX Runtime for a model that it can't load or run."""


@dataclass(frozen=True, slots=True)
class PredictorBundle:
    """The part of a bundle that the predictor needs."""

    model: str
    digest: str
    input_names: tuple[str, ...]
    golden_rows: Floats
    golden_scores: Floats
    tolerance: float
    onnx_path: Path
    tensors: Tensors | None = None
    named: NamedTensors | None = None
    data: tuple[DataFile, ...] = ()
    classes: int = 0
    """Number of probabilities for each row; 0 for one score."""


Load = Callable[[Path], PredictorBundle]
Score = Callable[[Floats], Floats]
Mode = Literal["event_loop", "thread"]


@dataclass(frozen=True, slots=True)
class Timing:
    """Duration of one call with `rows` rows: the best of a few, when warm."""

    rows: int
    call_s: float


@dataclass(frozen=True, slots=True)
class Model:
    """A model that has passed its self-test.

    Args:
        timings: timings of the model's calls, by rising number of rows.
    """

    served: PredictorBundle
    score: Score
    timings: tuple[Timing, ...]
    accelerator: Hardware = "cpu"

    @property
    def width(self) -> int:
        return len(self.served.input_names)

    @property
    def output_shape(self) -> list[int]:
        """The shape of the model's scores in the protocol's metadata, with -1 for the rows."""
        classes = self.served.classes
        return [-1, classes] if classes else [-1]

    @property
    def input_tensors(self) -> list[dict[str, Any]]:
        """The model's input tensors in the protocol's metadata."""
        if self.served.named is not None:
            return self.served.named.describe()
        return [{"name": INPUT, "datatype": DATATYPE, "shape": [-1, self.width]}]

    @property
    def inline_rows(self) -> int:
        """Most rows that were scored within `INLINE_LIMIT_S`; 0 for a slow model."""
        return max((t.rows for t in self.timings if t.call_s <= INLINE_LIMIT_S), default=0)

    @property
    def mode(self) -> Mode:
        """The thread that scores a single row: the event loop's own, or another."""
        return "event_loop" if self.inline_rows else "thread"


def read_bundle(folder: Path) -> PredictorBundle:
    """The bundle in a folder, with every digest checked.

    Raises:
        BundleCorrupt: a file is missing or changed; the message names it.
    """
    bundle = load_bundle(folder)
    return PredictorBundle(
        model=bundle.model,
        digest=bundle.digest,
        input_names=bundle.input_names,
        golden_rows=np.array(bundle.golden.rows, dtype=np.float32),
        golden_scores=np.array(bundle.golden.scores, dtype=np.float32),
        tolerance=bundle.golden.tolerance,
        onnx_path=folder / MODEL_FILE,
        tensors=bundle.tensors,
        named=NamedTensors(bundle.input_names, bundle.vocabularies, bundle.signature),
        data=data_of(folder, bundle.files),
        classes=bundle.classes,
    )


def load(
    folder: Path,
    name: str,
    accelerator: Accelerator = "cpu",
    digest: str = "",
    read: Load = read_bundle,
) -> Model:
    """The model of a bundle folder, warmed up and tested.

    Args:
        digest: digest of the bundle that the service is for; empty: whichever its name is for.

    Raises:
        Refused: the bundle is not the one that the service is for, or the accelerator is not
            one that this runtime has; or its weights need more memory than there is.
        Corrupt: the bundle or its model is broken, or the golden rows get other scores than the
            bundle says.
    """
    served = read(folder)
    named = ServiceName.parse(name)
    if named is not None and not named.names(served.model, served.digest):
        raise Refused(
            f"service {name} is not for the bundle in {folder}: {served.model} {served.digest[:8]}"
        )
    if digest and digest != served.digest:
        raise Refused(
            f"service {name} is for bundle {digest}, and {folder} has {served.digest}: put that "
            "bundle there again, and see who may write there"
        )
    tensors, data, classes = served.tensors, served.data, served.classes
    runs_on = hardware(accelerator)
    score = scorer(served.onnx_path, runs_on, tensors, data, classes=classes)
    timings = warm_up(score, len(served.input_names))
    self_test(score, served)
    return Model(served, score, timings, runs_on)


def session(
    onnx_path: Path, accelerator: Hardware = "cpu", data: Sequence[DataFile] = ()
) -> onnxruntime.InferenceSession:
    """An ONNX file loaded to run on one thread.

    Args:
        data: files with the model's weights, which the caller has digested. They are mapped, so
            that processes that read the same file have it in memory once.

    Raises:
        Refused: this runtime lacks the accelerator, or this machine the memory.
        Corrupt: ONNX Runtime does not accept the file.
    """
    if data:
        needed = needed_bytes(onnx_path.stat().st_size, [file.size for file in data])
        what = f"bundle {onnx_path.parent.name[:12]}"
        if problem := shortage(
            needed, memory_bytes(), what=what, whose="this machine or container"
        ):
            raise Refused(problem)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return providers.session(onnx_path, options, accelerator, has_data=bool(data))
    except RuntimeFailure as error:
        raise Corrupt(f"{onnx_path.name} can't be loaded on {accelerator}: {error}") from error


def scorer(
    onnx_path: Path,
    accelerator: Hardware = "cpu",
    tensors: Tensors | None = None,
    data: Sequence[DataFile] = (),
    *,
    classes: int = 0,
) -> Score:
    """A function from rows [n, width] to raw scores [n], or to probabilities [n, classes], by one
    call of ONNX Runtime on one thread.

    Args:
        tensors: the graph's tensors; None if it takes the rows as they are and gives their scores.
        data: files with the model's weights, as for `session`.
        classes: number of probabilities of a row; 0: one score.

    Raises:
        Refused: this runtime lacks the accelerator, or this machine the memory.
        Corrupt: ONNX Runtime does not accept the file, or its input or output has another name.
    """
    loaded = session(onnx_path, accelerator, data)
    if tensors is not None:
        return _of_tensors(loaded, tensors)
    inputs = [value.name for value in loaded.get_inputs()]
    outputs = [value.name for value in loaded.get_outputs()]
    if inputs != [INPUT] or OUTPUT not in outputs:
        raise Corrupt(
            f"{onnx_path.name} maps {inputs} to {outputs}; wanted [{INPUT!r}] to [{OUTPUT!r}]"
        )

    def score(rows: Floats) -> Floats:
        result: Floats = loaded.run([OUTPUT], {INPUT: rows})[0]
        return result.reshape(len(rows))

    def probabilities(rows: Floats) -> Floats:
        result: Floats = loaded.run([OUTPUT], {INPUT: rows})[0]
        return result.reshape(len(rows), classes)

    return probabilities if classes else score


def _of_tensors(loaded: onnxruntime.InferenceSession, tensors: Tensors) -> Score:
    def score(rows: Floats) -> Floats:
        output = loaded.run([tensors.output], tensors.feeds(rows))[0]
        try:
            scores = tensors.scores(output, len(rows))
        except ValueError as error:
            raise Corrupt(f"the model gives what its signature does not say: {error}") from error
        return np.ascontiguousarray(scores, dtype=np.float32)

    return score


def warm_up(score: Score, width: int) -> tuple[Timing, ...]:
    """Score batches of every size, so that no request is the first of its size. Returns their
    timings."""
    timings = []
    for rows in WARM_UP_ROWS:
        batch = np.zeros((rows, width), dtype=np.float32)
        call_s = min(_duration_s(score, batch) for _ in range(WARM_UP_REPEATS))
        timings.append(Timing(rows, call_s))
        if call_s > WARM_UP_LIMIT_S:
            break
    return tuple(timings)


def self_test(score: Score, served: PredictorBundle) -> None:
    """Score the golden rows, in one batch and one by one.

    Raises:
        Corrupt: a golden row gets another score than the bundle says.
    """
    batch = score(served.golden_rows)
    single = np.concatenate([score(row[np.newaxis]) for row in served.golden_rows])
    for scores in (batch, single):
        gap = np.abs(scores - served.golden_scores)
        if not (gap <= served.tolerance).all():
            worst = int(np.argmax(np.where(np.isfinite(gap), gap, np.inf)))
            row = worst // max(1, served.classes)
            raise Corrupt(
                f"golden row {row} scores {scores.flat[worst]:.6g}; the bundle says "
                f"{served.golden_scores.flat[worst]:.6g} (\u00b1{served.tolerance:g})"
            )


def _duration_s(score: Score, batch: Floats) -> float:
    start = time.perf_counter()
    score(batch)
    return time.perf_counter() - start
