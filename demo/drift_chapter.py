"""The last chapter of a team's model: its requests change, and the platform retrains by itself.

The demo plays requests and labels and starts the nightly checks. The rest is the platform's: the
check finds drift, `retrain_when` waits for labels, an event starts the flow `retrain`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from demo import drift
from demo.chapters import Scene
from demo.next_model import RUN_LIMIT_S, LoopNotClosed
from demo.story import POLL_S
from demo.traffic import Recording
from mlplatform.operations.prefect_client.prefect import FlowRun
from mlplatform.rollouts.drift.incidents import Incident
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.units import DAY_MS

CHANGED: Final = "the requests change (the platform is not told)"


async def play(scene: Scene, rate: Callable[[], float]) -> None:
    """The chapter to its end.

    Args:
        rate: requests a second at the most.

    Raises:
        LoopNotClosed: drift was not found, or was found where there is none; no version answers it,
            or one that is not shown to be better.
    """
    _change(scene)
    incident = await _wait_for_claim(scene, rate)
    found = await _answer(scene, incident)
    scene.diary.state.drift = found
    scene.diary.tell(scene.player.event_ms, drift.words(found))
    if (problem := drift.problem_of(found)) is not None:
        raise LoopNotClosed(problem)


def _change(scene: Scene) -> None:
    """Let requests of the changed pattern follow from the midnight on that has just passed."""
    state, player = scene.diary.state, scene.player
    if state.changed_row is not None:
        return
    state.change_ms, state.changed_row = state.next_midnight_ms - DAY_MS, player.position
    live = drift.live_requests(scene.source.live, state, scene.platform.settings.home.demo)
    fields = tuple(scene.platform.definition(state.model).request)
    player.recording = Recording(live, fields)
    scene.diary.tell(state.change_ms, CHANGED)


async def _wait_for_claim(scene: Scene, rate: Callable[[], float]) -> Incident:
    """The drift incident, once a check has asked for its retrain."""
    state, player = scene.diary.state, scene.player
    lag_days = drift.lag_days(scene.platform.definition(state.model))
    while True:
        midnight_ms = state.next_midnight_ms - DAY_MS
        incident = _incident(scene, midnight_ms - DAY_MS)
        is_found = incident is not None
        if drift.is_check_due(midnight_ms, state.change_ms, is_found=is_found, lag_days=lag_days):
            await scene.chunk(rate, len(player.recording))  # a day is over once the next has begun
            await scene.story.watch_drift()
            incident = _incident(scene, midnight_ms)
        if incident is not None and incident.state != "open":
            return incident
        if player.position >= len(player.recording):
            raise LoopNotClosed("the made-up requests ended before drift led to a retrain")
        await scene.play_labelled_day(rate)


def _incident(scene: Scene, midnight_ms: int) -> Incident | None:
    state = scene.diary.state
    incidents = scene.platform.incidents.list(state.model)
    incident, problem = drift.drift_incident(incidents, state.change_ms, midnight_ms)
    if problem:
        raise LoopNotClosed(problem)
    return incident


async def _answer(scene: Scene, incident: Incident) -> dict[str, Any]:
    """What the retrain of an incident came to; traffic waits for it."""
    platform, state = scene.platform, scene.diary.state
    run = await _run_of(scene, incident)
    reason = "" if run is None else str(run.parameters["reason"])
    if run is not None:
        scene.diary.tell(scene.player.event_ms, f"a retrain answers {incident.id}: {reason}")
        run = await _wait_for_end(scene, run)
    answered = _now(scene, incident)
    if answered.answer is None:
        why = answered.note if run is None else run.message
        raise LoopNotClosed(f"the retrain for {incident.id} made no version: {why}")
    version = await asyncio.to_thread(platform.registry.get, state.model, answered.answer)
    measure = drift.MEASURES[platform.definition(state.model).task]
    return drift.figures(answered, state.change_ms, reason, version, measure)


def _now(scene: Scene, incident: Incident) -> Incident:
    incidents = scene.platform.incidents.list(incident.found.model)
    return next(i for i in incidents if i.id == incident.id)


async def _run_of(scene: Scene, incident: Incident) -> FlowRun | None:
    """The run of `retrain` that the incident's event has started; None once it has answered."""
    asked = {"model": incident.found.model, "incident": incident.id}
    deadline = time.monotonic() + RUN_LIMIT_S
    while time.monotonic() < deadline:
        if _now(scene, incident).state == "answered":
            return None
        with suppress(Unavailable):
            runs = await asyncio.to_thread(scene.platform.prefect.unfinished, "retrain", asked)
            if runs:
                return runs[0]
        _expect_alive(scene)
        await asyncio.sleep(POLL_S)
    raise LoopNotClosed(f"no retrain for {incident.id} has begun within {RUN_LIMIT_S:.0f} s")


async def _wait_for_end(scene: Scene, run: FlowRun) -> FlowRun:
    deadline = time.monotonic() + RUN_LIMIT_S
    while not run.final:
        if time.monotonic() > deadline:
            raise LoopNotClosed(f"{run.name} has not ended within {RUN_LIMIT_S:.0f} s")
        _expect_alive(scene)
        await asyncio.sleep(POLL_S)
        with suppress(Unavailable):
            run = await asyncio.to_thread(scene.platform.prefect.run, run.id)
    return run


def _expect_alive(scene: Scene) -> None:
    if not scene.process.alive():
        raise Unavailable("the platform is gone; the demo waited for a retrain")
