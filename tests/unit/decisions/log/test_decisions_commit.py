"""Group commit: order, one transaction for many, nobody fails for a neighbour."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from mlplatform.decisions.log import commit
from mlplatform.decisions.log.commit import AsyncGroupCommit
from mlplatform.decisions.records.port import AppendReceipt, Entry, Outcome
from mlplatform.decisions.records.record import Record
from mlplatform.runtime.errors import Busy, InputInvalid, Refused, StaleFence, Unavailable
from support.thread_commit import ThreadCommit


def entry(name: str) -> Entry:
    return Entry(
        Record(kind="decision", decision_id=name, model="fraud", event_ms=1, recorded_ms=1)
    )


def until(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.005)


class MemoryLog:
    """A log in memory; `gate` holds appends back, "bad" is refused, `stale` refuses all, and with
    "no-file" there are too many open files.

    `broken` is an error that nobody has thought of: every heartbeat after it was set raises it.
    """

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.beats: list[int | None] = []
        self.closed = False
        self.stale = False
        self.broken: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.beaten = threading.Event()

    def append(self, writer: str, entries: Sequence[Entry]) -> list[Outcome]:
        self.entered.set()
        assert self.gate.wait(10)
        names = [e.record.decision_id for e in entries]
        if self.stale:
            raise StaleFence(writer)
        if "no-file" in names:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if "bad" in names:
            raise InputInvalid("record bad", None, "is bad")
        self.batches.append(names)
        first = sum(map(len, self.batches)) - len(names)
        return [AppendReceipt(first + i + 1) for i in range(len(names))]

    def heartbeat(self, writer: str, event_ms: int | None = None) -> None:
        if self.broken is not None:
            raise self.broken
        self.beats.append(event_ms)
        if event_ms is not None:
            self.beaten.set()

    def close_writer(self, writer: str) -> None:
        self.closed = True

    def checkpoint(self, is_over: Callable[[], bool]) -> None:
        pass


def test_what_comes_in_during_a_commit_goes_into_the_next_one() -> None:
    """One transaction for all that waited, in the order in which they came."""
    log = MemoryLog()
    committer = ThreadCommit(log, "gw")
    log.gate.clear()
    first = committer.submit([entry("a")])
    assert log.entered.wait(10)
    rest = [committer.submit([entry(name)]) for name in "bcd"]
    log.gate.set()
    assert first.result(10) == [AppendReceipt(1)]
    assert [f.result(10) for f in rest] == [
        [AppendReceipt(2)],
        [AppendReceipt(3)],
        [AppendReceipt(4)],
    ]
    assert log.batches == [["a"], ["b", "c", "d"]]
    committer.close()


def test_a_submission_is_never_torn_apart() -> None:
    """The entries of one submission share a transaction even beyond the batch size."""
    log = MemoryLog()
    committer = ThreadCommit(log, "gw", max_batch=2)
    assert len(committer.submit([entry(n) for n in "abc"]).result(10)) == 3
    assert log.batches == [["a", "b", "c"]]
    committer.close()


def test_a_bad_record_fails_alone() -> None:
    """Its neighbours in the batch are appended all the same."""
    log = MemoryLog()
    committer = ThreadCommit(log, "gw")
    log.gate.clear()
    committer.submit([entry("a")])
    assert log.entered.wait(10)
    before, bad, after = (committer.submit([entry(name)]) for name in ("b", "bad", "c"))
    log.gate.set()
    assert before.result(10)
    with pytest.raises(InputInvalid):
        bad.result(10)
    assert after.result(10)
    assert log.batches == [["a"], ["b"], ["c"]]
    committer.close()


def test_where_files_run_out_records_are_unavailable_and_the_next_are_taken() -> None:
    log = MemoryLog()
    committer = ThreadCommit(log, "gw")
    with pytest.raises(Unavailable, match="Too many open files") as refused:
        committer.submit([entry("no-file")]).result(10)
    assert isinstance(refused.value.__cause__, OSError)
    assert committer.submit([entry("next")]).result(10) == [AppendReceipt(1)]
    committer.close()


def test_a_writer_that_was_taken_over_fails_everybody() -> None:
    """No record is tried one by one against a log that is lost."""
    log = MemoryLog()
    committer = ThreadCommit(log, "gw")
    log.stale = True
    with pytest.raises(StaleFence):
        committer.submit([entry("a")]).result(10)
    until(lambda: not committer.alive)
    with pytest.raises(Unavailable):
        committer.submit([entry("b")])
    committer.close()


def test_a_writer_that_was_taken_over_is_not_alive_though_nobody_submits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An idle gateway hears of its successor by its next heartbeat."""
    monkeypatch.setattr(commit, "HEARTBEAT_S", 0.01)
    log = MemoryLog()
    committer = ThreadCommit(log, "gw")
    assert committer.alive
    log.broken = StaleFence("gw")
    until(lambda: not committer.alive)
    committer.close()


def test_close_appends_what_is_queued_and_says_so() -> None:
    """After close, everything submitted is in the log, and nothing more is taken."""
    log = MemoryLog()
    committer = ThreadCommit(log, "gw")
    answers = [committer.submit([entry(str(i))]) for i in range(500)]
    committer.close()
    assert sum(map(len, log.batches)) == 500
    assert all(a.done() for a in answers)
    assert log.closed
    with pytest.raises(Refused):
        committer.submit([entry("late")])


def test_a_full_queue_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is bounded by entries; the caller sheds load."""
    monkeypatch.setattr(commit, "QUEUED_ENTRIES", 3)
    log = MemoryLog()
    committer = ThreadCommit(log, "gw")
    log.gate.clear()
    committer.submit([entry("a")])
    assert log.entered.wait(10)
    for name in "bcd":
        committer.submit([entry(name)])
    with pytest.raises(Busy):
        committer.submit([entry("e")])
    log.gate.set()
    committer.close()


def test_an_idle_writer_beats_with_the_time_its_owner_has_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A quiet gateway must not hold a verdict back."""
    monkeypatch.setattr(commit, "HEARTBEAT_S", 0.01)
    log = MemoryLog()
    committer = ThreadCommit(log, "gw", reached_ms=lambda: 42)
    assert log.beaten.wait(10)
    committer.close()
    assert log.beats[0] is None
    assert log.beats[1] == 42


def test_what_was_submitted_before_a_heartbeat_is_appended_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The watermark says that nothing older is still to come: so nothing older may be queued."""
    monkeypatch.setattr(commit, "HEARTBEAT_S", 0.01)
    log = MemoryLog()
    submitted: list[str] = []
    seen: list[bool] = []

    def reached_ms() -> int:
        if not submitted:
            submitted.append("old")
            committer.submit([entry("old")])
        return 42

    beat = log.heartbeat

    def heartbeat(writer: str, event_ms: int | None = None) -> None:
        if event_ms is not None:
            seen.append(["old"] in log.batches)
        beat(writer, event_ms)

    log.heartbeat = heartbeat  # type: ignore[method-assign]
    committer = ThreadCommit(log, "gw", reached_ms=reached_ms)
    assert log.beaten.wait(10)
    committer.close()
    assert seen
    assert all(seen)


def test_an_unexpected_error_ends_the_commits_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits fails, nothing more is taken, and the owner can see that it must start again."""
    monkeypatch.setattr(commit, "HEARTBEAT_S", 0.01)
    log = MemoryLog()
    committer = ThreadCommit(log, "gw")
    assert committer.submit([entry("a")]).result(10)
    assert committer.alive
    log.broken = RuntimeError("nobody thought of this")
    until = time.monotonic() + 10
    while committer.alive and time.monotonic() < until:
        time.sleep(0.005)
    assert not committer.alive
    with pytest.raises(Unavailable, match="commit thread of gw has stopped") as caught:
        committer.submit([entry("b")])
    assert caught.value.__cause__ is log.broken
    committer.close()


def test_an_error_of_one_append_ends_nothing() -> None:
    """A bad record and a writer that was taken over fail those who wait, and no one else."""
    log = MemoryLog()
    committer = ThreadCommit(log, "gw")
    with pytest.raises(InputInvalid):
        committer.submit([entry("bad")]).result(10)
    assert committer.alive
    assert committer.submit([entry("a")]).result(10)
    committer.close()
    assert not committer.alive


async def test_an_event_loop_gets_its_outcomes_and_errors() -> None:
    """The asyncio form keeps the same promises."""
    log = MemoryLog()
    committer = AsyncGroupCommit(log, "gw")
    answers = await asyncio.gather(
        *(committer.submit([entry(n)]) for n in ("a", "bad", "b")), return_exceptions=True
    )
    assert isinstance(answers[1], InputInvalid)
    assert [o for a in (answers[0], answers[2]) for o in a]  # type: ignore[union-attr]
    await committer.close()
    assert sum(map(len, log.batches)) == 2
    assert log.closed


async def test_a_waiter_that_gave_up_does_not_disturb_the_others() -> None:
    """A client that hangs up cancels its future; its record is written all the same."""
    log = MemoryLog()
    committer = AsyncGroupCommit(log, "gw")
    log.gate.clear()
    gone, stays = committer.submit([entry("a")]), committer.submit([entry("b")])
    gone.cancel()
    log.gate.set()
    assert await stays
    await committer.close()
    assert sum(map(len, log.batches)) == 2


async def test_what_one_turn_of_the_loop_submits_goes_together() -> None:
    """The thread is woken once for all of it, and finds all of it."""
    log = MemoryLog()
    committer = AsyncGroupCommit(log, "gw")
    await asyncio.gather(*(committer.submit([entry(str(n))]) for n in range(20)))
    await committer.close()
    assert list(map(len, log.batches)) == [20]


async def test_closing_writes_what_was_submitted_in_the_same_turn() -> None:
    log = MemoryLog()
    committer = AsyncGroupCommit(log, "gw")
    answer = committer.submit([entry("a")])
    await committer.close()
    assert sum(map(len, log.batches)) == 1
    assert await answer


async def test_a_turn_cannot_submit_more_than_may_be_queued(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commit, "QUEUED_ENTRIES", 3)
    log = MemoryLog()
    committer = AsyncGroupCommit(log, "gw")
    taken = [committer.submit([entry(name)]) for name in "abc"]
    with pytest.raises(Busy):
        committer.submit([entry("d")])
    await asyncio.gather(*taken)
    await committer.close()


async def test_under_load_submissions_wait_for_each_other_and_a_lone_one_does_not() -> None:
    log = MemoryLog()
    committer = AsyncGroupCommit(log, "gw", max_batch=4, max_wait_ms=200.0)
    began_s = time.monotonic()
    await committer.submit([entry("alone")])
    await asyncio.gather(*(committer.submit([entry(name)]) for name in "ab"))
    assert time.monotonic() - began_s < 0.2
    first = committer.submit([entry("c")])
    await asyncio.sleep(0.02)
    await asyncio.gather(first, committer.submit([entry("d")]))
    assert time.monotonic() - began_s >= 0.2
    assert log.batches == [["alone"], ["a", "b"], ["c", "d"]]
    await committer.close()


async def test_a_full_batch_waits_for_nobody_and_neither_does_one_after_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = MemoryLog()
    committer = AsyncGroupCommit(log, "gw", max_batch=2, max_wait_ms=5000.0)
    for pair in ("ab", "cd"):
        async with asyncio.timeout(2):
            await asyncio.gather(*(committer.submit([entry(name)]) for name in pair))
    monkeypatch.setattr(commit, "RECENT_BATCH_S", 0.0)
    async with asyncio.timeout(2):
        await committer.submit([entry("e")])
    assert log.batches == [["a", "b"], ["c", "d"], ["e"]]
    await committer.close()


async def test_once_all_that_may_come_have_come_nobody_waits() -> None:
    log = MemoryLog()
    committer = AsyncGroupCommit(log, "gw", max_wait_ms=60_000.0, expected=lambda: 3)
    await asyncio.gather(*(committer.submit([entry(name)]) for name in "ab"))  # under load now
    waiting = [committer.submit([entry(name)]) for name in "cd"]
    await asyncio.wait(waiting, timeout=0.02)
    assert not any(answer.done() for answer in waiting)
    async with asyncio.timeout(10):
        await asyncio.gather(*waiting, committer.submit([entry("e")]))
    await committer.close()
    assert log.batches == [["a", "b"], ["c", "d", "e"]]


async def test_closing_writes_what_waits_for_company() -> None:
    log = MemoryLog()
    committer = AsyncGroupCommit(log, "gw", max_wait_ms=5000.0)
    await asyncio.gather(*(committer.submit([entry(name)]) for name in "ab"))
    waiting = committer.submit([entry("c")])
    await committer.close()
    assert await waiting == [AppendReceipt(3)]


def test_checkpoints_go_on_after_one_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them the log and the keys to be moved would grow, and nobody would see it."""
    monkeypatch.setattr(commit, "CHECKPOINT_S", 0.01)
    tries: list[bool] = []

    class FullLog(MemoryLog):
        def checkpoint(self, is_over: Callable[[], bool]) -> None:
            tries.append(is_over())
            if len(tries) == 1:
                raise MemoryError

    committer = ThreadCommit(FullLog(), "gw")
    until(lambda: len(tries) > 2)
    committer.close()
    assert not any(tries[:2])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads share one niceness")
def test_checkpoints_are_as_urgent_as_the_requests_that_they_hold_the_lock_from() -> None:
    """A thread that gives way may do so with the interpreter lock, and all wait for it then."""
    found: list[int] = []

    class WatchedLog(MemoryLog):
        def checkpoint(self, is_over: Callable[[], bool]) -> None:
            found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    committer = ThreadCommit(WatchedLog(), "gw")
    until(lambda: bool(found))
    committer.close()
    assert set(found) == {os.getpriority(os.PRIO_PROCESS, threading.get_native_id())}
