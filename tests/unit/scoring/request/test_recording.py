"""How long an answer waits for its record."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Sequence

import pytest

from mlplatform.decisions.records.port import AppendReceipt, Entry, Outcome
from mlplatform.decisions.records.record import Record
from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.predictor_client.predictor import STALL_S
from mlplatform.scoring.request import recording
from mlplatform.scoring.request.recording import (
    BEYOND_S,
    InFlight,
    LogUnavailable,
    Recorder,
)

ENTRY = Entry(Record(kind="label", decision_id="d", model="fraud", event_ms=7, recorded_ms=7))


class Commits:
    """Confirms what it is told to, when it is told to."""

    alive = True

    def __init__(self) -> None:
        self.answers: list[asyncio.Future[list[Outcome]]] = []

    def submit(self, entries: Sequence[Entry]) -> asyncio.Future[list[Outcome]]:
        self.answers.append(asyncio.get_running_loop().create_future())
        return self.answers[-1]

    async def close(self) -> None: ...


def started(commits: Commits, seen: list[int]) -> Recorder:
    recorder = Recorder(lambda _: commits, seen.append)
    recorder.start()
    return recorder


async def test_a_record_that_nobody_confirms_is_refused_and_the_next_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recording, "WAIT_S", 0.1)
    commits, seen = Commits(), list[int]()
    recorder = started(commits, seen)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    with pytest.raises(LogUnavailable, match="no confirmation"):
        await recorder.append(ENTRY)
    assert loop.time() - began_s >= 0.1
    assert seen == []
    later = asyncio.ensure_future(recorder.append(ENTRY))
    await asyncio.sleep(0)
    commits.answers[-1].set_result([AppendReceipt(1)])
    assert await later == AppendReceipt(1)
    assert seen == [7]


async def test_each_wait_has_its_own_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "WAIT_S", 0.2)
    commits = Commits()
    recorder = started(commits, [])
    early = asyncio.ensure_future(recorder.append(ENTRY))
    await asyncio.sleep(0.1)
    late = asyncio.ensure_future(recorder.append(ENTRY))
    with pytest.raises(LogUnavailable):
        await early
    assert not late.done()
    commits.answers[-1].set_result([AppendReceipt(2)])
    assert await late == AppendReceipt(2)


@pytest.mark.parametrize("left_s", [0.05, -1.0], ids=["in time", "late already"])
async def test_who_has_a_deadline_waits_no_longer_than_a_bound_beyond_it(left_s: float) -> None:
    """However late it was handed in, a record has that bound to be confirmed in."""
    commits = Commits()
    recorder = started(commits, [])
    began_s = time.monotonic()
    with pytest.raises(LogUnavailable, match="no confirmation"):
        await recorder.append(ENTRY, began_s + left_s)
    waited_s = time.monotonic() - began_s
    assert waited_s >= max(left_s, 0.0) + BEYOND_S - 0.002  # a timer's resolution
    assert waited_s < recording.WAIT_S / 2
    later = asyncio.ensure_future(recorder.append(ENTRY, time.monotonic() + left_s))
    await asyncio.sleep(0)
    commits.answers[-1].set_result([AppendReceipt(1)])
    assert await later == AppendReceipt(1)


async def test_who_waits_without_a_deadline_holds_up_nobody_who_has_one() -> None:
    recorder = started(Commits(), [])
    patient = asyncio.ensure_future(recorder.append(ENTRY))
    await asyncio.sleep(0)
    with pytest.raises(LogUnavailable):
        await recorder.append(ENTRY, time.monotonic() + 0.02)
    assert not patient.done()
    patient.cancel()


async def test_a_process_that_was_held_up_hears_what_was_confirmed_before_it_refuses() -> None:
    commits = Commits()
    recorder = started(commits, [])
    waiting = asyncio.ensure_future(recorder.append(ENTRY, time.monotonic() + 0.01))
    await asyncio.sleep(0)
    (answer,), loop = commits.answers, asyncio.get_running_loop()

    def confirm() -> None:
        loop.call_soon_threadsafe(answer.set_result, [AppendReceipt(1)])

    time.sleep(0.01 + BEYOND_S + 3 * STALL_S)  # held up: nothing goes on meanwhile
    loop.call_soon(threading.Thread(target=confirm).start)  # after the wait's end was noticed
    assert await waiting == AppendReceipt(1)


async def test_a_refusal_is_freed_with_its_record_when_it_was_told() -> None:
    """A log that is away refuses many, and the garbage collector of a gateway seldom runs."""
    commits = Commits()
    recorder = started(commits, [])
    gc.disable()
    try:
        with pytest.raises(LogUnavailable):
            await recorder.append(ENTRY, time.monotonic())
        left = weakref.ref(commits.answers.pop())
        await asyncio.sleep(0)  # the turn in which it was told is over
        assert left() is None
    finally:
        gc.enable()


def test_a_key_that_is_being_answered_is_refused_and_free_afterwards() -> None:
    in_flight = InFlight()
    with in_flight.claim("shop", "k-1"):
        with pytest.raises(Problem) as refused, in_flight.claim("shop", "k-1"):
            pass
        with in_flight.claim("bank", "k-1"), in_flight.claim("shop", "k-2"):
            pass
    assert (refused.value.status, refused.value.retry_after_s) == (409, 1)
    with in_flight.claim("shop", "k-1"):
        pass
