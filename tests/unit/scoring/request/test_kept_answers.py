"""Answers that are on no record: kept for retries, few of them, and never before a recorded one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from mlplatform.decisions.records.port import Entry, Idempotency, StoredAnswer
from mlplatform.decisions.records.prepared_record import Key
from mlplatform.decisions.records.record import Record
from mlplatform.runtime.errors import Unavailable
from mlplatform.scoring.request import recording
from mlplatform.scoring.request.recording import KeptAnswers, look_up_in_time


class RecordedAnswers:
    """What the log has."""

    def __init__(self) -> None:
        self.stored: dict[str, StoredAnswer] = {}
        self.reads: list[list[str]] = []
        self.is_held_up = False
        self.damaged = ""

    def find(self, client: str, model: str, key: str) -> StoredAnswer | None:
        if self.is_held_up or key == self.damaged:
            raise Unavailable("another process blocks its readers")
        return self.stored.get(key)

    def find_all(self, keys: Sequence[Key]) -> list[StoredAnswer | None]:
        self.reads.append([key for _, _, key in keys])
        return [self.find(*key) for key in keys]


def entry(key: str | None) -> Entry:
    record = Record(kind="decision", decision_id="d", model="fraud", event_ms=1, recorded_ms=1)
    return Entry(record, None if key is None else Idempotency("app", key, "body", b"recorded"))


def test_a_retry_of_an_unlogged_answer_gets_it_again() -> None:
    """As it was given, which is not as it would have been recorded; only under its own key."""
    answers = KeptAnswers(RecordedAnswers())
    answers.keep_unlogged(entry("k"), b"degraded")
    answers.keep_unlogged(entry(None), b"another")
    assert answers.find("app", "fraud", "k") == StoredAnswer(b"degraded", "body", "d")
    assert answers.find("app", "other", "k") is None
    assert answers.find("another", "fraud", "k") is None


def test_what_is_recorded_comes_first() -> None:
    recorded = RecordedAnswers()
    answers = KeptAnswers(recorded)
    answers.keep_unlogged(entry("k"), b"degraded")
    recorded.stored["k"] = StoredAnswer(b"recorded", "body", "d")
    assert answers.find("app", "fraud", "k") == recorded.stored["k"]


def test_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded; the oldest go first."""
    monkeypatch.setattr(recording, "UNLOGGED_KEPT", 2)
    answers = KeptAnswers(RecordedAnswers())
    for key in "abc":
        answers.keep_unlogged(entry(key), key.encode())
    assert [answers.find("app", "fraud", key) is not None for key in "abc"] == [False, True, True]


async def test_what_one_turn_looks_up_is_one_read_and_each_gets_its_own() -> None:
    recorded = RecordedAnswers()
    answers = KeptAnswers(recorded)
    recorded.stored["a"] = StoredAnswer(b"recorded", "body", "d")
    answers.keep_unlogged(entry("b"), b"degraded")
    wanted = [answers.look_up(("app", "fraud", key)) for key in "abc"]
    wanted[2].cancel()
    assert await asyncio.gather(*wanted[:2]) == [
        StoredAnswer(b"recorded", "body", "d"),
        StoredAnswer(b"degraded", "body", "d"),
    ]
    assert await answers.look_up(("app", "fraud", "c")) is None
    assert recorded.reads == [["a", "b", "c"], ["c"]]


async def test_a_read_that_fails_fails_for_all_that_wait_and_for_nobody_after() -> None:
    recorded = RecordedAnswers()
    answers = KeptAnswers(recorded)
    recorded.is_held_up = True
    found = await asyncio.gather(
        *(answers.look_up(("app", "fraud", key)) for key in "ab"), return_exceptions=True
    )
    assert [type(one) for one in found] == [Unavailable, Unavailable]
    recorded.is_held_up = False
    assert await answers.look_up(("app", "fraud", "a")) is None


async def test_a_key_that_cannot_be_read_fails_its_own_request_alone() -> None:
    recorded = RecordedAnswers()
    answers = KeptAnswers(recorded)
    recorded.damaged, recorded.stored["c"] = "b", StoredAnswer(b"recorded", "body", "d")
    wanted = [answers.look_up(("app", "fraud", key)) for key in "abc"]
    found = await asyncio.gather(*wanted, return_exceptions=True)
    assert (found[0], found[2]) == (None, recorded.stored["c"])
    assert type(found[1]) is Unavailable


class BusyLog:
    """A log that nobody can read for the first so many times."""

    def __init__(self, times: float) -> None:
        self.times = times
        self.asked = 0

    async def find(self) -> StoredAnswer | None:
        self.asked += 1
        if self.asked <= self.times:
            raise Unavailable("another process blocks its readers")
        return StoredAnswer(b"recorded", "body", "d")


async def test_a_log_that_is_held_up_for_a_moment_refuses_nobody() -> None:
    log = BusyLog(3)
    assert await look_up_in_time(log.find, time.monotonic() + 60) == StoredAnswer(
        b"recorded", "body", "d"
    )
    assert log.asked == 4


async def test_a_log_that_stays_held_up_refuses_in_time() -> None:
    log = BusyLog(float("inf"))
    until_s = time.monotonic() + 5 * recording.RETRY_LOOKUP_S
    with pytest.raises(Unavailable):
        await look_up_in_time(log.find, until_s)
    assert 1 <= log.asked <= 6


async def test_with_no_time_left_it_is_asked_once() -> None:
    log = BusyLog(float("inf"))
    with pytest.raises(Unavailable):
        await look_up_in_time(log.find, time.monotonic())
    assert log.asked == 1
