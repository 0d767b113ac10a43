"""Answers that are on no record: kept for retries, few of them, and never before a recorded one."""

from __future__ import annotations

import time

import pytest

from mlplatform.decisions.records.port import Entry, Idempotency, Stored
from mlplatform.decisions.records.record import Record
from mlplatform.runtime.errors import Unavailable
from mlplatform.scoring.request import recording
from mlplatform.scoring.request.recording import KeptAnswers, found_in_time


class Recorded:
    """What the log has."""

    def __init__(self) -> None:
        self.stored: dict[str, Stored] = {}

    def find(self, client: str, model: str, key: str) -> Stored | None:
        return self.stored.get(key)


def entry(key: str | None) -> Entry:
    record = Record(kind="decision", decision_id="d", model="fraud", event_ms=1, recorded_ms=1)
    return Entry(record, None if key is None else Idempotency("app", key, "body", b"recorded"))


def test_a_retry_of_an_unlogged_answer_gets_it_again() -> None:
    """As it was given, which is not as it would have been recorded; only under its own key."""
    answers = KeptAnswers(Recorded())
    answers.keep_unlogged(entry("k"), b"degraded")
    answers.keep_unlogged(entry(None), b"another")
    assert answers.find("app", "fraud", "k") == Stored(b"degraded", "body", "d")
    assert answers.find("app", "other", "k") is None
    assert answers.find("another", "fraud", "k") is None


def test_what_is_recorded_comes_first() -> None:
    recorded = Recorded()
    answers = KeptAnswers(recorded)
    answers.keep_unlogged(entry("k"), b"degraded")
    recorded.stored["k"] = Stored(b"recorded", "body", "d")
    assert answers.find("app", "fraud", "k") == recorded.stored["k"]


def test_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded; the oldest go first."""
    monkeypatch.setattr(recording, "UNLOGGED_KEPT", 2)
    answers = KeptAnswers(Recorded())
    for key in "abc":
        answers.keep_unlogged(entry(key), key.encode())
    assert [answers.find("app", "fraud", key) is not None for key in "abc"] == [False, True, True]


class HeldUp:
    """A log that nobody can read for the first so many times."""

    def __init__(self, times: float) -> None:
        self.times = times
        self.asked = 0

    def find(self) -> Stored | None:
        self.asked += 1
        if self.asked <= self.times:
            raise Unavailable("another process blocks its readers")
        return Stored(b"recorded", "body", "d")


async def test_a_log_that_is_held_up_for_a_moment_refuses_nobody() -> None:
    log = HeldUp(3)
    assert await found_in_time(log.find, time.monotonic() + 60) == Stored(b"recorded", "body", "d")
    assert log.asked == 4


async def test_a_log_that_stays_held_up_refuses_in_time() -> None:
    log = HeldUp(float("inf"))
    until_s = time.monotonic() + 5 * recording.LOOK_AGAIN_S
    with pytest.raises(Unavailable):
        await found_in_time(log.find, until_s)
    assert 1 <= log.asked <= 6


async def test_with_no_time_left_it_is_asked_once() -> None:
    log = HeldUp(float("inf"))
    with pytest.raises(Unavailable):
        await found_in_time(log.find, time.monotonic())
    assert log.asked == 1
