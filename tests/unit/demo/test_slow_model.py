"""The demo's slow model: the same scores as its base, and really slow."""

from __future__ import annotations

import time

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from tests.support.plain_fit import plain_fit

from demo.slow_model import slow_twin
from mlplatform.learning.onnx.onnx_file import OnnxFile
from mlplatform.learning.training.folder import load_training
from mlplatform.model.folders import load_definition

NAMES = [i.name for i in load_definition("fraud").inputs]
TARGET_MS = 4.0
Floats = NDArray[np.float32]


def payments(rows: int) -> Floats:
    """Rows with holes here and there, one that is all holes, one of extremes."""
    rng = np.random.default_rng(3)
    x = rng.lognormal(1.0, 1.0, (rows, len(NAMES))).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    x[0] = np.nan
    x[1] = 1e6
    return x


@pytest.fixture(scope="module")
def base() -> bytes:
    """A model as the fraud folder trains it."""
    x = payments(3000)
    y = (np.nan_to_num(x[:, 0]) + np.nan_to_num(x[:, 1]) > 9).astype(np.int8)
    return bytes(plain_fit(load_training("fraud"), x, y, seed=1).onnx())


@pytest.fixture(scope="module")
def slow(base: bytes) -> bytes:
    return slow_twin(base, TARGET_MS)


def fastest_ms(model: bytes) -> float:
    """The shortest of some calls with one row: what the machine's other work can't shorten."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    row, times = payments(3)[2:3], []
    for _ in range(30):
        began = time.perf_counter()
        session.run(None, {"inputs": row})
        times.append(time.perf_counter() - began)
    return min(times) * 1000


def test_it_is_a_model_that_the_platform_takes_and_gives_the_same_scores(
    base: bytes, slow: bytes
) -> None:
    x = payments(200)
    expected = OnnxFile(base, inputs=len(NAMES)).scores(x)
    found = OnnxFile(slow, inputs=len(NAMES)).scores(x)
    assert np.isfinite(expected).all()
    assert len(set(expected.tolist())) > 20
    np.testing.assert_array_equal(found, expected)


def test_rows_alone_score_as_rows_together(slow: bytes) -> None:
    model, x = OnnxFile(slow, inputs=len(NAMES)), payments(8)
    alone = np.concatenate([model.scores(row[None, :]) for row in x])
    np.testing.assert_allclose(alone, model.scores(x), atol=1e-6)


def test_it_takes_at_least_twenty_times_as_long(base: bytes, slow: bytes) -> None:
    assert fastest_ms(slow) > 20 * fastest_ms(base)


def test_a_batch_of_rows_costs_as_much_as_its_rows(slow: bytes) -> None:
    """Otherwise a server that scores rows in batches would catch up with its queue."""
    model, x = OnnxFile(slow, inputs=len(NAMES)), payments(32)

    def taken_s(rows: Floats) -> float:
        began = time.perf_counter()
        model.scores(rows)
        return time.perf_counter() - began

    assert min(taken_s(x) for _ in range(3)) > 10 * min(taken_s(x[2:3]) for _ in range(3))


def test_its_file_stays_small(base: bytes, slow: bytes) -> None:
    assert len(slow) < len(base) + 2_000_000
    assert onnx.load_from_string(slow).graph.output[0].name == "scores"
