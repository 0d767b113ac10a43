"""How long an answer waits for its record."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from mlplatform.decisions.log import Appended, Entry, Outcome
from mlplatform.decisions.records import Record
from mlplatform.gateway import recording
from mlplatform.gateway.recording import LogUnavailable, Recorder

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
    recorder = Recorder(lambda: commits, seen.append)
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
    commits.answers[-1].set_result([Appended(1)])
    assert await later == Appended(1)
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
    commits.answers[-1].set_result([Appended(2)])
    assert await late == Appended(2)
