"""The demo keeps step with its passes, and ends with the reason where its champion is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from demo.chapters import Scene, Tasks, play, show_progress
from demo.next_model import WITHIN_MS, LoopNotClosed
from demo.state import DemoState, Diary
from demo.story import ENGINEER, PASS_WITHIN_MS, Story
from demo.traffic import Counts
from mlplatform.model.routes import Arm, Routes
from mlplatform.rollouts.journal.journal import GatewayLease
from mlplatform.rollouts.journal.state import fold
from mlplatform.rollouts.journal.transitions import (
    CanaryStepped,
    Opened,
    Promoted,
    RolledBack,
    ShadowStarted,
    Transition,
)
from mlplatform.runtime.units import DAY_MS, HOUR_MS

CHAMPION = Arm(1, "a" * 64, "fraud-v1-aaaaaaaa")
OTHER = Arm(2, "b" * 64, "fraud-v2-bbbbbbbb")
REASON = "decided review or decline for 39 of 91 customers (42.86 %); at most 15.00 % are allowed"


class Journal:
    """Routes with a champion, and what gateways said of themselves."""

    def __init__(self, stopped: dict[str, str], *, ramping: bool = False) -> None:
        self._stopped, self.ramping = stopped, ramping

    def routes(self, model: str) -> Routes:
        return Routes(model, 1, CHAMPION, None, None, CHAMPION.service, "steady", 0.0)

    def gateways(self, model: str) -> list[GatewayLease]:
        return [GatewayLease("gateway-0", 1, self._stopped)]

    def active(self, model: str, *, finished: bool = False) -> list[Any]:
        state = SimpleNamespace(rollout_id="fraud-v2-1", phase="shadow", ramping=self.ramping)
        return [] if finished else [state]


def story(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, event_ms: Callable[[], int] = lambda: 0
) -> Story:
    monkeypatch.setattr("demo.story._new_key", lambda *_: b"secret")
    clock = SimpleNamespace(wall_ms=lambda: 0)
    platform = cast(Any, SimpleNamespace(rollouts=journal, clock=clock))
    diary = cast(Any, SimpleNamespace(state=SimpleNamespace(model="fraud", entries=[])))
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
    monkeypatch.setattr(told, "tell_phases", lambda: None)
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


SHARED: dict[str, Any] = {
    "rollout_id": "fraud-v2-1",
    "model": "fraud",
    "wall_ms": 0,
    "actor": "a pass",
}


def ramp(*, end: bool) -> list[Transition]:
    """The journal of a version that comes to its second canary step, and is rolled back there."""

    def at(hour: int, reason: str) -> dict[str, Any]:
        return {**SHARED, "event_ms": hour * HOUR_MS, "reason": reason}

    opened = Opened(
        **at(0, "a try"), challenger=OTHER, author="ana", alert_low=0.005, alert_high=0.02,
        bootstrap=False, validation={}, approval="none", plan=None,
    )  # fmt: skip
    facts: list[Transition] = [
        opened,
        ShadowStarted(**at(1, "it is ready"), displaced=None),
        CanaryStepped(**at(2, "shadow: no harm"), step=0, percent=5.0),
        CanaryStepped(**at(3, "canary 5 %: no harm"), step=1, percent=25.0),
    ]
    return [*facts, RolledBack(**at(4, "too slow"))] if end else facts


class Ramp(Journal):
    """One rollout, whose journal grows."""

    def __init__(self) -> None:
        super().__init__({})
        self.facts = ramp(end=False)

    def active(self, model: str, *, finished: bool = False) -> list[Any]:
        return [fold(self.facts)] if finished else []

    def read(self, rollout_id: str) -> list[Transition]:
        return self.facts


PHASES = [
    (0, "fraud-v2-1: deploying (a try)"),
    (1, "fraud-v2-1: shadow (it is ready)"),
    (2, "fraud-v2-1: canary of 5 % begins; what led there: shadow: no harm"),
    (3, "fraud-v2-1: canary of 25 % begins; what led there: canary 5 %: no harm"),
    (4, "fraud-v2-1: rolled back (too slow)"),
]


def kept(diary: Diary) -> list[tuple[float, str]]:
    return [(entry.event_ms / HOUR_MS, entry.text) for entry in diary.state.entries]


def ramped(monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[Story, Ramp, Diary]:
    monkeypatch.setattr("demo.story._new_key", lambda *_: b"secret")
    diary = Diary(folder / "state.json", DemoState("fraud", "", 1, 0, DAY_MS), lambda _: None)
    journal = Ramp()
    platform = cast(Any, SimpleNamespace(rollouts=journal))
    return Story(platform, cast(Any, None), diary, lambda: 0, folder), journal, diary


def test_each_phase_is_told_once_also_one_that_ended_between_two_passes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told, journal, diary = ramped(monkeypatch, tmp_path)
    told.tell_phases()
    told.tell_phases()
    assert kept(diary) == PHASES[:-1]
    journal.facts = ramp(end=True)
    told.tell_phases()
    assert kept(diary) == PHASES
    again = Story(told._platform, cast(Any, None), diary, lambda: 0, tmp_path)
    again.tell_phases()
    assert kept(diary) == PHASES, "a demo that goes on tells no phase twice"


async def test_the_end_of_the_last_rollout_is_told_before_the_story_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told, journal, diary = ramped(monkeypatch, tmp_path)
    scene = Scene(cast(Any, None), told, *[cast(Any, None)] * 4, pace=1.0)

    async def chapters(running: Tasks, scene: Scene) -> None:
        journal.facts = ramp(end=True)

    assert await play(scene, chapters) is None
    assert kept(diary) == PHASES


async def test_progress_is_shown_where_no_line_comes_and_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("demo.chapters.SILENCE_S", 0.05)
    monkeypatch.setattr("demo.chapters.PROGRESS_POLL_S", 0.01)
    told, _, _ = ramped(monkeypatch, tmp_path)
    shown: list[str] = []
    state = DemoState("fraud", "", 1, 0, DAY_MS)
    diary = Diary(tmp_path / "state.json", state, lambda entry: shown.append(entry.text))
    player = cast(Any, SimpleNamespace(counts=Counts(answers=1_200), event_ms=HOUR_MS))
    none = cast(Any, None)
    scene = Scene(none, told, player, diary, none, none, 1.0)
    progress = asyncio.ensure_future(show_progress(scene))
    await asyncio.wait_for(_until(lambda: len(shown) > 1), 5.0)
    progress.cancel()
    assert shown[0] == "… 1,200 requests answered; no rollout is under way"
    assert state.entries == []


async def _until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.01)


async def test_payments_wait_for_a_retrain_that_drift_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_ms = 0
    journal, asked = Journal({}), SimpleNamespace(state="claimed", until_ms=1)
    told = story(journal, monkeypatch, lambda: now_ms)
    told._platform.incidents = SimpleNamespace(list=lambda *_, **__: [asked])
    await asyncio.wait_for(told.awaited.wait(), 1.0)
    now_ms = WITHIN_MS
    await asyncio.wait_for(told.awaited.wait(), 1.0)
    now_ms = WITHIN_MS + 1
    waiting = asyncio.ensure_future(told.awaited.wait())
    await asyncio.sleep(0.1)
    assert not waiting.done(), "a retrain takes longer than the recorded days may go by"
    assert told.awaited.under_way() == "a model was being made"
    journal.ramping = True
    await asyncio.wait_for(waiting, 5.0)


async def test_a_retrain_that_never_ends_is_told_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_ms = 0
    told = story(Journal({}), monkeypatch, lambda: now_ms)
    asked = SimpleNamespace(state="claimed", until_ms=1)
    told._platform.incidents = SimpleNamespace(list=lambda *_, **__: [asked])
    await told.awaited.wait()
    now_ms = 2 * WITHIN_MS
    monkeypatch.setattr("demo.next_model.RUN_LIMIT_S", 0.2)
    with pytest.raises(LoopNotClosed, match=r"no run of retrain completed .*--resume"):
        await told.awaited.wait()


async def test_payments_wait_for_no_retrain_that_died(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its incident stays claimed until the claim runs out."""
    told = story(Journal({}), monkeypatch, lambda: 2 * WITHIN_MS)
    asked = SimpleNamespace(state="claimed", until_ms=0)
    told._platform.incidents = SimpleNamespace(list=lambda *_, **__: [asked])
    await asyncio.wait_for(told.awaited.wait(), 1.0)
    assert told.awaited.under_way() == "nothing was under way"


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
