"""Requests left for later while the log is held up: as patient as those that are scored at once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mlplatform.decisions.records.port import AppendReceipt, Entry, Outcome, StoredAnswer
from mlplatform.decisions.records.prepared_record import Key
from mlplatform.runtime.clock import Clock
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.request import recording
from mlplatform.scoring.request.decision import Caller
from mlplatform.scoring.request.decision_ids import owned_decision_id
from mlplatform.scoring.request.deferred_requests import AsyncAcceptor
from mlplatform.scoring.request.payloads import ScoreRequest
from mlplatform.scoring.request.recording import Recorder
from mlplatform.scoring.request.scoring import Scoring

KEY = b"k" * 32
WALL_MS = 1_700_000_000_000


class Model:
    """What is asked of a model while nothing is scored."""

    keep_ms = 60_000
    definition = SimpleNamespace(name="fraud", takes_async=True, deadline_ms=60_000.0)

    @property
    def times(self) -> Model:
        return self

    @contextmanager
    def answering(self, event_ms: int) -> Iterator[None]:
        yield

    def check_accepts(self, event_ms: int) -> None: ...

    def pseudonymised(self, sent: Mapping[str, Any]) -> dict[str, Any]:
        return dict(sent)


class BusyLog:
    """Answers that nobody can look up the first so many times."""

    def __init__(self, times: float, stored: dict[str, StoredAnswer] | None = None) -> None:
        self.left = times
        self.stored = stored or {}

    async def look_up(self, asked: Key) -> StoredAnswer | None:
        self.left -= 1
        if self.left >= 0:
            raise Unavailable("another process blocks its readers")
        return self.stored.get(asked[2])

    def keep_unlogged(self, entry: Entry, answer: bytes) -> None: ...


class ImmediateRecorder:
    """A recorder that has everything on record at once."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    async def append(
        self, entry: Entry, deadline_s: float | None = None, beside: Sequence[Entry] = ()
    ) -> Outcome:
        self.entries.append(entry)
        return AppendReceipt(len(self.entries))


def deferral(answers: BusyLog, recorder: ImmediateRecorder) -> AsyncAcceptor:
    clock = cast(Clock, SimpleNamespace(wall_ms=lambda: WALL_MS))
    models = {"fraud": cast(Scoring, Model())}
    return AsyncAcceptor(models, answers, cast(Recorder, recorder), clock, KEY)


def asked(within_s: float = 60.0) -> tuple[Scoring, ScoreRequest, Caller]:
    now_s = time.monotonic()
    request = ScoreRequest({"amount": 1.0}, {"amount": 1.0}, WALL_MS, b"body", None)
    return cast(Scoring, Model()), request, Caller("shop", now_s, now_s + within_s, key="k")


async def test_a_request_is_accepted_while_the_log_is_held_up_for_a_moment() -> None:
    recorder = ImmediateRecorder()
    given = await deferral(BusyLog(3), recorder).accept(*asked())
    assert not given.replayed
    assert len(recorder.entries) == 1


async def test_a_poll_is_answered_while_the_log_is_held_up_for_a_moment() -> None:
    decision_id = owned_decision_id("fraud", "shop", WALL_MS, KEY)
    answers = BusyLog(3, {decision_id: StoredAnswer(b"answer", "", decision_id)})
    found = await deferral(answers, ImmediateRecorder()).find_answer(
        "shop", decision_id, time.monotonic()
    )
    assert found == ("fraud", b"answer")


async def test_a_log_that_stays_held_up_refuses_both_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = ImmediateRecorder()
    held_up = deferral(BusyLog(float("inf")), recorder)
    decision_id = owned_decision_id("fraud", "shop", WALL_MS, KEY)
    monkeypatch.setattr(Model.definition, "deadline_ms", 5e3 * recording.RETRY_LOOKUP_S)

    with pytest.raises(Problem) as accepting:
        await held_up.accept(*asked(within_s=5 * recording.RETRY_LOOKUP_S))
    with pytest.raises(Problem) as polling:
        await held_up.find_answer("shop", decision_id, time.monotonic())

    assert [one.value.name for one in (accepting, polling)] == ["log-unavailable"] * 2
    assert recorder.entries == []
