"""The demo keeps step with its passes, and ends with the reason where its champion is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from demo.state import DemoState, Diary
from demo.story import ENGINEER, PASS_WITHIN_MS, LoopNotClosed, Story
from mlplatform.model.routes import Arm, Routes
from mlplatform.rollouts.journal.journal import GatewayLease
from mlplatform.rollouts.journal.transitions import Promoted, RolledBack, Transition
from mlplatform.runtime.units import DAY_MS

CHAMPION = Arm(1, "a" * 64, "fraud-v1-aaaaaaaa")
OTHER = Arm(2, "b" * 64, "fraud-v2-bbbbbbbb")
REASON = "decided review or decline for 39 of 91 customers, at most 15.00 % allowed"


class Journal:
    """Routes with a champion, and what gateways said of themselves."""

    def __init__(self, stopped: dict[str, str], *, ramping: bool = False) -> None:
        self._stopped, self.ramping = stopped, ramping

    def routes(self, model: str) -> Routes:
        return Routes(model, 1, CHAMPION, None, None, CHAMPION.service, "steady", 0.0)

    def gateways(self, model: str) -> list[GatewayLease]:
        return [GatewayLease("gateway-0", 1, self._stopped)]

    def active(self, model: str, *, finished: bool = False) -> list[Any]:
        return [] if finished else [SimpleNamespace(ramping=self.ramping)]


def story(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, event_ms: Callable[[], int] = lambda: 0
) -> Story:
    monkeypatch.setattr("demo.story._new_key", lambda *_: b"secret")
    platform = cast(Any, SimpleNamespace(rollouts=journal))
    diary = cast(Any, SimpleNamespace(state=SimpleNamespace(model="fraud")))
    return Story(platform, cast(Any, None), diary, event_ms, Path())


async def test_a_stopped_champion_ends_the_story_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = story(Journal({CHAMPION.service: REASON}), monkeypatch)
    with pytest.raises(LoopNotClosed) as problem:
        await told.passes()
    found = str(problem.value)
    assert f"no longer asks {CHAMPION.service}, the champion: its bundle {REASON}" in found


async def test_another_version_that_is_stopped_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    told = story(Journal({OTHER.service: REASON}), monkeypatch)
    passes = asyncio.ensure_future(told.passes())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(passes, 0.7)


async def test_payments_wait_for_a_pass_that_has_fallen_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_ms, asked = 0, asyncio.Event()
    go_on = asyncio.Event()
    journal = Journal({}, ramping=True)
    told = story(journal, monkeypatch, lambda: now_ms)

    async def run_flow(flow: str, parameters: object) -> None:
        asked.set()
        await go_on.wait()

    monkeypatch.setattr(told, "run_flow", run_flow)
    monkeypatch.setattr(told, "_tell_phases", lambda _: None)
    passes = asyncio.ensure_future(told.passes())
    await asked.wait()
    now_ms = PASS_WITHIN_MS
    await asyncio.wait_for(told.wait_for_pass(), 1.0)
    now_ms = PASS_WITHIN_MS + 1
    waiting = asyncio.ensure_future(told.wait_for_pass())
    await asyncio.sleep(0.1)
    assert not waiting.done(), "the pass that began at 0 has not ended, and no other looked since"
    go_on.set()
    await asyncio.wait_for(waiting, 5.0)
    passes.cancel()


async def test_payments_wait_for_nothing_where_no_rollout_is_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_ms = 0
    told = story(Journal({}), monkeypatch, lambda: now_ms)
    now_ms = 10 * PASS_WITHIN_MS
    await asyncio.wait_for(told.wait_for_pass(), 1.0)


class TakenBack(Journal):
    """A rollout of the next version that was rolled back, and the first one as champion."""

    def __init__(self, facts: tuple[Transition, ...]) -> None:
        super().__init__({})
        self._facts = facts

    def active(self, model: str, *, finished: bool = False) -> list[Any]:
        state = {"rollout_id": "fraud-v2-1", "challenger": OTHER, "phase": "rolled_back"}
        return [SimpleNamespace(**state, reason="", answer=None, finished=True)] if finished else []

    def read(self, rollout_id: str) -> tuple[Transition, ...]:
        return self._facts


FACT: dict[str, Any] = {
    "rollout_id": "fraud-v2-1",
    "model": "fraud",
    "event_ms": 0,
    "wall_ms": 0,
    "actor": ENGINEER,
    "reason": "",
}


def resumed(
    facts: tuple[Transition, ...], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> tuple[Story, DemoState]:
    """The story of a demo that was stopped before it had saved that a version is back."""
    monkeypatch.setattr("demo.story._new_key", lambda *_: b"secret")
    state = DemoState("fraud", "generated", 1, 0, DAY_MS, first_version=CHAMPION.version)
    diary = Diary(folder / "state.json", state, lambda _: None)
    platform = cast(Any, SimpleNamespace(rollouts=TakenBack(facts)))
    return Story(platform, cast(Any, None), diary, lambda: 0, folder), state


async def test_a_demo_stopped_after_the_way_back_and_before_it_was_saved_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    facts = (Promoted(**FACT, predecessor=CHAMPION), RolledBack(**FACT))
    told, state = resumed(facts, monkeypatch, tmp_path)
    await asyncio.wait_for(told.next_version(), 5.0)
    await asyncio.wait_for(told.take_back(), 5.0)
    assert state.is_back
    assert state.learned_version == OTHER.version


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param((RolledBack(**FACT),), id="before its promotion"),
        pytest.param(
            (Promoted(**FACT, predecessor=CHAMPION), RolledBack(**FACT | {"actor": "a pass"})),
            id="by a pass",
        ),
    ],
)
async def test_a_next_version_that_was_rolled_back_otherwise_ends_the_story(
    facts: tuple[Transition, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told, _ = resumed(facts, monkeypatch, tmp_path)
    with pytest.raises(LoopNotClosed, match="was to end promoted, is rolled_back"):
        await asyncio.wait_for(told.next_version(), 5.0)
