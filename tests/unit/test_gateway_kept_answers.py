"""Answers that are on no record: kept for retries, few of them, and never before a recorded one."""

from __future__ import annotations

import pytest

from mlplatform.decisions.log import Entry, Idempotency, Stored
from mlplatform.decisions.records import Record
from mlplatform.gateway import recording
from mlplatform.gateway.recording import KeptAnswers


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
