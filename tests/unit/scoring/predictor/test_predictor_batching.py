"""In what order a predictor scores what it is asked."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from mlplatform.scoring.predictor import batching
from mlplatform.scoring.predictor.batching import BatchLimits, ScoreQueue, wait_s
from mlplatform.scoring.predictor.metrics import Metrics
from mlplatform.scoring.predictor.model import Model, PredictorBundle, Timing, self_test
from mlplatform.scoring.predictor.protocol import Floats, RequestRefused
from mlplatform.scoring.predictor.state import ServedModel

SERVED = PredictorBundle(
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


def queue(
    recorder: Recorder, *, inline_rows: int, limit: int = 64, delay_us: int = 300
) -> ScoreQueue:
    timings = (Timing(inline_rows, 50e-6),) if inline_rows else (Timing(1, 1e-3),)
    limits = BatchLimits(waiting=limit, delay_us=delay_us)
    return ScoreQueue(Model(SERVED, recorder.score, timings), Metrics("m"), limits)


def row(value: float) -> Floats:
    return np.array([[value]], dtype=np.float32)


async def test_a_fast_model_is_asked_on_the_event_loop() -> None:
    recorder = Recorder()

    scored = await queue(recorder, inline_rows=1).score(row(3))

    assert scored.scores.tolist() == [3]
    assert scored.queue_s == 0 < scored.compute_s
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

    assert [a.scores.tolist() for a in answers] == [[0], [1], [2], [3], [4]]
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
    assert [a.scores.tolist() for a in await asyncio.gather(running, *waiting)] == [[0], [1], [2]]


async def test_a_caller_who_gave_up_costs_the_others_nothing() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    scores = queue(recorder, inline_rows=0)
    tasks = [asyncio.create_task(scores.score(row(value))) for value in range(3)]
    await asyncio.sleep(0.05)
    tasks[1].cancel()
    recorder.gate.set()

    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert answers[0].scores.tolist() == [0]
    assert isinstance(answers[1], asyncio.CancelledError)
    assert answers[2].scores.tolist() == [2]


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda rows: rows[:, 0] + 1e-3, id="another score"),
        pytest.param(lambda rows: rows[:, 0] * np.nan, id="no score"),
    ],
)
def test_a_model_that_scores_its_golden_rows_otherwise_fails(wrong: object) -> None:
    from mlplatform.runtime.errors import Corrupt

    with pytest.raises(Corrupt, match="golden row 0"):
        self_test(wrong, SERVED)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("case", "wanted_us"),
    [
        pytest.param({"last_requests": 1}, 0, id="alone before: sent at once"),
        pytest.param({"last_requests": 8}, 250, id="under load: what is left of the delay"),
        pytest.param({"last_requests": 8, "last_end": -500}, 0, id="after a pause: sent at once"),
        pytest.param({"last_requests": 8, "now": 900}, 0, id="the delay is over: sent"),
        pytest.param({"last_requests": 8, "delay": 0}, 0, id="no delay wanted: sent at once"),
    ],
)
def test_a_batch_waits_only_under_load_and_never_longer_than_its_delay(
    case: dict[str, int], wanted_us: int
) -> None:
    us = {"now": 150, "asked": 100, "last_end": 50, "delay": 300, **case}

    found_s = wait_s(
        now_s=us["now"] * 1e-6,
        asked_s=us["asked"] * 1e-6,
        last_end_s=us["last_end"] * 1e-6,
        last_requests=us["last_requests"],
        delay_s=us["delay"] * 1e-6,
    )

    assert found_s * 1e6 == pytest.approx(wanted_us)


async def test_a_lone_request_waits_for_nothing_however_long_the_delay() -> None:
    scores = queue(Recorder(), inline_rows=0, delay_us=5_000_000)

    for _ in range(3):
        assert (await scores.score(row(1))).queue_s < 1


async def test_under_load_a_batch_fills_before_it_leaves() -> None:
    recorder = Recorder()
    scores = queue(recorder, inline_rows=0, delay_us=2_000_000)
    recorder.gate.clear()
    first = [asyncio.create_task(scores.score(row(value))) for value in range(4)]
    await asyncio.sleep(0.05)
    recorder.gate.set()
    await asyncio.gather(*first)
    assert len(recorder.calls[-1]) >= 3

    for value in range(4):
        first[value] = asyncio.create_task(scores.score(row(value)))
        await asyncio.sleep(0.01)
    await asyncio.gather(*first)

    assert len(recorder.calls[-1]) + len(recorder.calls[-2]) >= 4
    assert len(recorder.calls) <= 4


async def test_a_call_never_has_more_rows_than_its_limit_but_for_one_large_request() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    timings = (Timing(1, 1e-3),)
    scores = ScoreQueue(
        Model(SERVED, recorder.score, timings), Metrics("m"), BatchLimits(batch_rows=3, delay_us=0)
    )
    asked = [
        asyncio.create_task(scores.score(np.full((rows, 1), rows, dtype=np.float32)))
        for rows in (2, 2, 1, 5, 1)
    ]
    await asyncio.sleep(0.05)
    recorder.gate.set()

    answers = await asyncio.gather(*asked)

    assert [a.scores.tolist() for a in answers] == [[2, 2], [2, 2], [1], [5] * 5, [1]]
    assert [len(call) for call in recorder.calls] == [2, 3, 5, 1]
    assert scores.depth() == 0


def test_where_a_model_runs_is_what_warm_up_measured() -> None:
    quick = Model(SERVED, Recorder().score, (Timing(1, 20e-6), Timing(8, 90e-6), Timing(32, 1e-3)))
    slow = Model(SERVED, Recorder().score, (Timing(1, 300e-6),))

    assert (quick.mode, quick.inline_rows) == ("event_loop", 8)
    assert (slow.mode, slow.inline_rows) == ("thread", 0)


class FailingModel(Recorder):
    """A model that raises what it is told to, until it is mended."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error: BaseException | None = error

    def score(self, rows: Floats) -> Floats:
        self.gate.wait(10)
        if self.error is not None:
            raise self.error
        return super().score(rows)


@pytest.mark.parametrize("inline_rows", [0, 1], ids=["in the thread", "on the event loop"])
@pytest.mark.parametrize("error", [ValueError("no such shape"), MemoryError("of 3 GiB")])
async def test_whatever_a_model_raises_its_callers_are_told_and_the_next_are_scored(
    error: Exception,
    inline_rows: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batching.log, "filters", [])  # an earlier test may have said the same
    model = FailingModel(error)
    scores = queue(model, inline_rows=inline_rows)
    asked = [asyncio.create_task(scores.score(row(value))) for value in range(3)]

    failures = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)
    model.error = None

    assert [failure.status for failure in failures] == [500] * 3
    assert all(str(error) in str(failure) for failure in failures)
    assert "not scored" in caplog.text
    assert (await asyncio.wait_for(scores.score(row(4)), 10)).scores.tolist() == [4]
    assert scores.alive


async def test_where_the_thread_ends_nobody_waits_and_the_predictor_is_neither_ready_nor_live(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = FailingModel(SystemExit("out of the model"))
    model.gate.clear()
    predictor = ServedModel("m")
    predictor.serve(Model(SERVED, model.score, (Timing(1, 1e-3),)))
    assert (predictor.ready, predictor.alive) == (True, True)
    _, scores = predictor.model_and_queue()
    asked = [asyncio.create_task(scores.score(row(value))) for value in range(3)]
    await asyncio.sleep(0.05)
    model.gate.set()

    failures = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)

    assert [failure.status for failure in failures] == [500] * 3
    assert (predictor.ready, predictor.alive) == (False, False)
    assert b'mlplatform_predictor_ready{service="m"} 0' in predictor.metrics.text()
    assert "the thread that scores has ended" in str(predictor.not_ready())
    assert "the thread that scores has ended" in caplog.text
    with pytest.raises(RequestRefused) as refusal:
        await asyncio.wait_for(scores.score(row(4)), 10)
    assert refusal.value.status == 503
