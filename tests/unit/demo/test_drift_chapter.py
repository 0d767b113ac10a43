"""The chapter of drift: when checks run, that traffic waits for the retrain, and what ends it."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.unit.demo.test_demo_drift import CHANGE_MS, MODEL, incident, measured, version

from demo import drift, drift_chapter, team
from demo.chapters import Scene
from demo.next_model import LoopNotClosed
from demo.state import DemoState, Diary
from mlplatform.model.folders import load_definition
from mlplatform.operations.prefect_client.prefect import FlowRun
from mlplatform.rollouts.drift.incidents import Incident
from mlplatform.runtime.units import DAY_MS

REASON = "1,600 requests of the new pattern have matured"
PARAMETERS = {"model": MODEL, "incident": "drift-1", "reason": REASON}
RUNNING = FlowRun("r", f"retrain {MODEL}", "RUNNING", "Running", "", PARAMETERS, 0)


class Incidents:
    """One incident that checks find on a day, claim on another, and a retrain answers."""

    def __init__(self, *, found: int, claimed: int, answer: int | None) -> None:
        self._found, self._claimed, self._answer = found, claimed, answer
        self.checks: list[int] = []
        self.is_answered = False

    def check(self, day: int) -> None:
        self.checks.append(day)

    def list(self, model: str) -> list[Incident]:
        if not self.checks or self.checks[-1] < self._found:
            return []
        if self.checks[-1] < self._claimed:
            return [incident()]
        claimed = dataclasses.replace(incident(), state="claimed", claim=1)
        if not self.is_answered:
            return [claimed]
        return [dataclasses.replace(claimed, state="answered", answer=self._answer)]


class World:
    """A scene of days that pass at once, with the incidents of a platform."""

    def __init__(self, tmp_path: Any, incidents: Incidents, measures: list[Any]) -> None:
        self.incidents = incidents
        self.state = DemoState(MODEL, "generated", 1, CHANGE_MS - DAY_MS, CHANGE_MS)
        self.state.changed_row, self.state.next_midnight_ms = 0, CHANGE_MS + DAY_MS
        self.player = SimpleNamespace(position=0, recording=range(40), event_ms=CHANGE_MS)
        self.process = SimpleNamespace(alive=lambda: True)
        self.diary = Diary(tmp_path / "state.json", self.state, lambda _: None)
        self.platform = SimpleNamespace(
            incidents=incidents,
            definition=load_definition,
            prefect=self,
            registry=SimpleNamespace(get=lambda *_: version(measures)),
        )
        self.story = self

    @property
    def _day(self) -> int:
        return (self.state.next_midnight_ms - CHANGE_MS) // DAY_MS - 1

    async def watch_drift(self) -> None:
        self.incidents.check(self._day)

    async def chunk(self, rate: object, end: int) -> None:
        pass

    async def play_labelled_day(self, rate: object) -> None:
        self.state.next_midnight_ms += DAY_MS
        self.player.position += 1

    def unfinished(self, flow: str, parameters: dict[str, str]) -> list[FlowRun]:
        assert flow == "retrain"
        assert parameters.items() <= PARAMETERS.items()
        return [RUNNING]

    def run(self, run_id: str) -> FlowRun:
        self.incidents.is_answered = True
        return dataclasses.replace(RUNNING, state="COMPLETED", message="GateFailed: quality")

    async def play(self) -> None:
        await drift_chapter.play(cast(Scene, self), lambda: 1.0)


BETTER = [measured("accuracy", 0.11, 0.13)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLPLATFORM_MODELS", str(team.TEAMS / "payments-data"))
    monkeypatch.setattr(drift_chapter, "POLL_S", 0.0)


async def test_checks_find_drift_and_wait_until_a_retrain_can_learn(tmp_path: Any) -> None:
    world = World(tmp_path, Incidents(found=2, claimed=11, answer=3), BETTER)
    await world.play()
    assert world.incidents.checks == [0, 1, 2, 10, 11]
    assert world.player.position == 11, "traffic waits for the retrain"
    assert world.state.drift is not None
    assert world.state.drift["retrain"] == REASON
    said = [entry.text for entry in world.state.entries]
    assert said == [f"a retrain answers drift-1: {REASON}", drift.words(world.state.drift)]


@pytest.mark.parametrize(
    ("incidents", "measures", "problem"),
    [
        (Incidents(found=4, claimed=11, answer=3), BETTER, "found nothing in 3 days"),
        (Incidents(found=2, claimed=99, answer=3), BETTER, "ended before drift led to a retrain"),
        (Incidents(found=2, claimed=10, answer=None), BETTER, "made no version: GateFailed"),
        (
            Incidents(found=2, claimed=10, answer=3),
            [measured("accuracy", -0.1, 0.1)],
            "not shown to be better",
        ),
    ],
    ids=["not found", "never asked for", "refused by its gates", "no better"],
)
async def test_the_loop_does_not_close(
    tmp_path: Any, incidents: Incidents, measures: list[Any], problem: str
) -> None:
    with pytest.raises(LoopNotClosed, match=problem):
        await World(tmp_path, incidents, measures).play()


async def test_a_resumed_demo_takes_up_a_retrain_that_has_answered(tmp_path: Any) -> None:
    incidents = Incidents(found=2, claimed=10, answer=3)
    incidents.checks, incidents.is_answered = [10], True
    world = World(tmp_path, incidents, BETTER)
    world.state.next_midnight_ms = CHANGE_MS + 11 * DAY_MS
    await world.play()
    assert world.state.drift is not None
    assert world.state.drift["version"] == 3
