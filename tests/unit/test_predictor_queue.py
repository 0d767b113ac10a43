"""In what order a predictor scores what it is asked."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from mlplatform.predictor.metrics import Metrics
from mlplatform.predictor.model import Model, Served, self_test
from mlplatform.predictor.protocol import Floats, RequestRefused
from mlplatform.predictor.queue import ScoreQueue

SERVED = Served(
    model="m",
    digest="0" * 64,
    input_names=("a",),
    golden_rows=np.array([[1.0], [2.0]], dtype=np.float32),
    golden_scores=np.array([1.0, 2.0], dtype=np.float32),
    tolerance=1e-6,
    onnx_path=None,  # type: ignore[arg-type]
)


class Recorder:
    """A model that gives each row back, and notes in which calls and threads it was asked."""

    def __init__(self) -> None:
        self.calls: list[list[float]] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()

    def score(self, rows: Floats) -> Floats:
        self.gate.wait(10)
        self.threads.add(threading.get_ident())
        self.calls.append(rows[:, 0].tolist())
        return rows[:, 0]


def queue(recorder: Recorder, *, inline_rows: int, limit: int = 64) -> ScoreQueue:
    return ScoreQueue(Model(SERVED, recorder.score, inline_rows), Metrics("m"), limit)


def row(value: float) -> Floats:
    return np.array([[value]], dtype=np.float32)


async def test_a_fast_model_is_asked_on_the_event_loop() -> None:
    recorder = Recorder()

    scores = await queue(recorder, inline_rows=1).score(row(3))

    assert scores.tolist() == [3]
    assert recorder.threads == {threading.get_ident()}


async def test_more_rows_than_are_quick_leave_the_event_loop() -> None:
    recorder = Recorder()

    await queue(recorder, inline_rows=1).score(np.ones((2, 1), dtype=np.float32))

    assert threading.get_ident() not in recorder.threads


async def test_what_waits_goes_into_one_call_and_everybody_gets_their_own_rows() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    scores = queue(recorder, inline_rows=0)
    asked = [asyncio.create_task(scores.score(row(value))) for value in range(5)]
    await asyncio.sleep(0.05)
    recorder.gate.set()

    answers = await asyncio.gather(*asked)

    assert [a.tolist() for a in answers] == [[0], [1], [2], [3], [4]]
    assert sum(map(len, recorder.calls)) == 5
    assert len(recorder.calls) <= 2


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    scores = queue(recorder, inline_rows=0, limit=2)
    running = asyncio.create_task(scores.score(row(0)))
    await asyncio.sleep(0.05)
    waiting = [asyncio.create_task(scores.score(row(value))) for value in (1, 2)]
    await asyncio.sleep(0)

    with pytest.raises(RequestRefused) as refusal:
        await scores.score(row(3))

    recorder.gate.set()
    assert (refusal.value.status, refusal.value.retry_after_s) == (503, 1)
    assert [a.tolist() for a in await asyncio.gather(running, *waiting)] == [[0], [1], [2]]


async def test_a_caller_who_gave_up_costs_the_others_nothing() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    scores = queue(recorder, inline_rows=0)
    tasks = [asyncio.create_task(scores.score(row(value))) for value in range(3)]
    await asyncio.sleep(0.05)
    tasks[1].cancel()
    recorder.gate.set()

    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert answers[0].tolist() == [0]
    assert isinstance(answers[1], asyncio.CancelledError)
    assert answers[2].tolist() == [2]


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda rows: rows[:, 0] + 1e-3, id="another score"),
        pytest.param(lambda rows: rows[:, 0] * np.nan, id="no score"),
    ],
)
def test_a_model_that_scores_its_golden_rows_otherwise_fails(wrong: object) -> None:
    from mlplatform.errors import Corrupt

    with pytest.raises(Corrupt, match="golden row 0"):
        self_test(wrong, SERVED)  # type: ignore[arg-type]
