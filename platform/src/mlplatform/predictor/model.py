"""A bundle's model, ready to score: loaded, warmed up, and checked against its golden rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime

from mlplatform.errors import Corrupt, Refused
from mlplatform.predictor.protocol import INPUT, OUTPUT, Floats
from mlplatform.registry.bundle import MODEL_FILE, load_bundle
from mlplatform.serving.names import ServiceName

WARM_UP_ROWS: Final = (1, 2, 8, 32, 128, 512)
WARM_UP_REPEATS: Final = 5
INLINE_LIMIT_S: Final = 200e-6
"""A call longer than this leaves the event loop, so that health checks stay live."""

RuntimeFailure = (
    onnxruntime.capi.onnxruntime_pybind11_state.Fail,
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument,
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidGraph,
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidProtobuf,
    onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented,
    onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException,
)
"""What ONNX Runtime raises for a model that it can't load or run."""


@dataclass(frozen=True, slots=True)
class Served:
    """What the predictor needs of a bundle."""

    model: str
    digest: str
    input_names: tuple[str, ...]
    golden_rows: Floats
    golden_scores: Floats
    tolerance: float
    onnx_path: Path


Load = Callable[[Path], Served]
Score = Callable[[Floats], Floats]


@dataclass(frozen=True, slots=True)
class Model:
    """A model that has passed its self-test.

    Args:
        inline_rows: the most rows that warm-up scored within `INLINE_LIMIT_S`; 0 for a slow model.
    """

    served: Served
    score: Score
    inline_rows: int

    @property
    def width(self) -> int:
        return len(self.served.input_names)


def read_bundle(folder: Path) -> Served:
    """What is served from a bundle folder; every digest in it is checked.

    Raises:
        BundleCorrupt: names the file that is missing or changed.
    """
    bundle = load_bundle(folder)
    return Served(
        model=bundle.model,
        digest=bundle.digest,
        input_names=bundle.input_names,
        golden_rows=np.array(bundle.golden.rows, dtype=np.float32),
        golden_scores=np.array(bundle.golden.scores, dtype=np.float32),
        tolerance=bundle.golden.tolerance,
        onnx_path=folder / MODEL_FILE,
    )


def load(folder: Path, name: str, read: Load = read_bundle) -> Model:
    """The model of a bundle folder, warm and tested.

    Raises:
        Refused: the bundle is not the one that the service is named for.
        Corrupt: the bundle or its model is broken, or the golden rows score otherwise.
    """
    served = read(folder)
    named = ServiceName.parse(name)
    if named is not None and not named.names(served.model, served.digest):
        raise Refused(
            f"service {name} is not for the bundle in {folder}: {served.model} {served.digest[:8]}"
        )
    score = scorer(served.onnx_path)
    inline_rows = warm_up(score, len(served.input_names))
    self_test(score, served)
    return Model(served, score, inline_rows)


def session(onnx_path: Path) -> onnxruntime.InferenceSession:
    """An ONNX file loaded to run on one thread.

    Raises:
        Corrupt: ONNX Runtime does not take the file.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            str(onnx_path), options, providers=["CPUExecutionProvider"]
        )
    except RuntimeFailure as error:
        raise Corrupt(f"{onnx_path.name} is not a model that can be loaded: {error}") from error


def scorer(onnx_path: Path) -> Score:
    """A function from rows [n, width] to raw scores [n], one ONNX Runtime call on one thread.

    Raises:
        Corrupt: ONNX Runtime does not take the file, or its input or output is named otherwise.
    """
    loaded = session(onnx_path)
    inputs = [value.name for value in loaded.get_inputs()]
    outputs = [value.name for value in loaded.get_outputs()]
    if inputs != [INPUT] or OUTPUT not in outputs:
        raise Corrupt(
            f"{onnx_path.name} maps {inputs} to {outputs}; wanted [{INPUT!r}] to [{OUTPUT!r}]"
        )

    def score(rows: Floats) -> Floats:
        result: Floats = loaded.run([OUTPUT], {INPUT: rows})[0]
        return result.reshape(len(rows))

    return score


def warm_up(score: Score, width: int) -> int:
    """Scores batches of growing size; returns the most rows that took `INLINE_LIMIT_S` at most.

    Stops at the first size that takes longer: larger ones would take longer still.
    """
    inline_rows = 0
    for rows in WARM_UP_ROWS:
        batch = np.zeros((rows, width), dtype=np.float32)
        if min(_duration_s(score, batch) for _ in range(WARM_UP_REPEATS)) > INLINE_LIMIT_S:
            break
        inline_rows = rows
    return inline_rows


def self_test(score: Score, served: Served) -> None:
    """Scores the golden rows, in one batch and one by one.

    Raises:
        Corrupt: a golden row is scored otherwise than the bundle says.
    """
    batch = score(served.golden_rows)
    single = np.concatenate([score(row[np.newaxis]) for row in served.golden_rows])
    for scores in (batch, single):
        gap = np.abs(scores - served.golden_scores)
        if not (gap <= served.tolerance).all():
            row = int(np.argmax(np.where(np.isfinite(gap), gap, np.inf)))
            raise Corrupt(
                f"golden row {row} scores {scores[row]:.6g}; the bundle says "
                f"{served.golden_scores[row]:.6g} within {served.tolerance:g}"
            )


def _duration_s(score: Score, batch: Floats) -> float:
    start = time.perf_counter()
    score(batch)
    return time.perf_counter() - start
