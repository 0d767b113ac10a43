"""What people and gateways stop: a model switched off, a version that declines too many."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.rollouts.passes.test_rollout_passes import (
    World,
    bootstrap,
    failing_rows,
    to_canary,
    to_promoted,
)

from mlplatform.model.policies.rollout import FreezePolicy, FreezeWindow
from mlplatform.model.routes import Routes
from mlplatform.rollouts.journal.controls import (
    Control,
    Killed,
    KillLifted,
    StopsCleared,
    check_may_move,
    controlled_routes,
    decode_control,
    encode_control,
    fold_controls,
)
from mlplatform.rollouts.journal.state import Pause, RolloutState, fold
from mlplatform.rollouts.journal.transitions import CanaryStepped, Paused
from mlplatform.rollouts.passes.controls import abort, clear_stops, kill, lift, pause, resume
from mlplatform.rollouts.passes.freeze import FreezePeriod, frozen_at
from mlplatform.rollouts.passes.wait_reasons import excluded_time, running_since_wall_ms
from mlplatform.runtime.errors import NotFound, Refused, StaleFence
from mlplatform.runtime.units import HOUR_MS
from rollout_world import arm, canary_rows, shadow_rows

WHO: dict[str, Any] = {"actor": "ana", "reason": "whole countries declined"}
FACT: dict[str, Any] = {"model": "fraud", "event_ms": 1, "wall_ms": 2, **WHO}
STEADY = Routes("fraud", 4, arm(1), None, None, None, "steady", 0.0)


FROZEN_MS = int(datetime(2026, 11, 2, tzinfo=UTC).timestamp() * 1000)
"""When the freeze of two days begins."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    bootstrap(made)
    return made


def killed(world: World) -> Routes:
    kill(world.rollouts, "fraud", **WHO, clock=world.clock)
    return world.rollouts.routes("fraud")


@pytest.mark.parametrize("fact", [Killed(**FACT), KillLifted(**FACT), StopsCleared(**FACT)])
def test_a_control_is_read_as_it_was_written(fact: Control) -> None:
    assert decode_control(encode_control(fact)) == fact


def test_nobody_is_switched_off_twice_or_on_without_having_been_off() -> None:
    assert fold_controls([Killed(**FACT), KillLifted(**FACT)]).killed is None
    with pytest.raises(Refused, match="switched off already, by ana"):
        fold_controls([Killed(**FACT), Killed(**FACT)])
    with pytest.raises(Refused, match="nothing to switch on"):
        fold_controls([Killed(**FACT), KillLifted(**FACT), KillLifted(**FACT)])
    with pytest.raises(Refused, match="nothing to switch on"):
        fold_controls([StopsCleared(**FACT), KillLifted(**FACT)])


def test_controls_change_no_arm() -> None:
    for fact in (Killed(**FACT), KillLifted(**FACT), StopsCleared(**FACT)):
        following = controlled_routes(fact, STEADY)
        assert following.generation == STEADY.generation + 1
        assert following.arms == STEADY.arms
    assert controlled_routes(StopsCleared(**FACT), STEADY).cleared == 5


def test_a_killed_model_takes_no_step_but_back(world: World) -> None:
    rollout_id = to_canary(world)
    before = world.rollouts.routes("fraud")
    routes = killed(world)
    assert (routes.killed, routes.phase, routes.champion) == (True, "canary", before.champion)
    world.settle()
    assert world.state(rollout_id).phase == "canary"
    world.back()
    assert world.state(rollout_id).phase == "rolled_back"
    assert world.rollouts.routes("fraud").killed, "a rollback does not switch the model on"
    lift(world.rollouts, "fraud", **WHO, clock=world.clock)
    assert not world.rollouts.routes("fraud").killed
    assert world.rollouts.verify() == ()


def test_a_rollout_of_a_killed_model_waits_and_says_for_what(world: World) -> None:
    killed(world)
    rollout_id = world.open(2)
    report = world.settle()
    assert report.waits[0] == f"{rollout_id}: fraud is switched off: it waits for `rollouts lift`"
    assert world.plane.names() == [arm(1).service]
    lift(world.rollouts, "fraud", **WHO, clock=world.clock)
    world.settle()
    assert world.state(rollout_id).phase == "shadow"


def test_the_journal_itself_refuses_what_a_stale_plan_would_do(world: World) -> None:
    rollout_id = to_canary(world)
    present = world.rollouts.routes("fraud")
    last = world.rollouts.read(rollout_id)[-1]
    off = dataclasses.replace(present, killed=True)
    with pytest.raises(Refused, match="is switched off"):
        check_may_move(last, off, dataclasses.replace(off, generation=99))
    with pytest.raises(Refused, match="can't change what people control"):
        check_may_move(last, present, off)
    with pytest.raises(Refused, match="can't change what people control"):
        check_may_move(last, present, dataclasses.replace(present, cleared=3))


def test_a_running_pass_loses_its_lease_to_who_kills(world: World) -> None:
    fence = world.rollouts.acquire("fraud", "pass 1", 20)
    assert fence is not None
    killed(world)
    with pytest.raises(StaleFence):
        world.rollouts.control(KillLifted(**FACT), fence, world.rollouts.routes("fraud"))


def test_a_model_without_a_champion_can_not_be_killed(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="has no champion"):
        killed(World(tmp_path))


def test_controls_stand_in_the_journal_beside_its_anchors(world: World) -> None:
    anchored = world.rollouts.last_anchor()
    killed(world)
    assert world.rollouts.last_anchor() == anchored
    (fact,) = world.rollouts.controls("fraud")
    assert isinstance(fact, Killed)
    assert (fact.actor, fact.reason) == ("ana", "whole countries declined")
    assert world.rollouts.controls("other") == ()
    assert world.rollouts.verify() == ()


def stop(world: World, version: int, gateway: str = "gateway-1") -> None:
    generation = world.rollouts.routes("fraud").generation
    why = {arm(version).service: "declined 25 of 25 customers"}
    world.rollouts.lease(gateway, {"fraud": generation}, 60, why)


def test_a_challenger_that_a_gateway_stopped_is_taken_back_without_label_or_log(
    world: World,
) -> None:
    rollout_id = to_canary(world)
    stop(world, 2)
    world.settle()
    state = world.state(rollout_id)
    assert state.phase == "rolled_back"
    assert state.reason == "stopped by gateways: gateway-1: it declined 25 of 25 customers"
    assert world.rollouts.routes("fraud").challenger is None


def test_a_champion_on_trial_that_a_gateway_stopped_gives_its_place_back(world: World) -> None:
    rollout_id = to_promoted(world)
    assert world.state(rollout_id).phase == "promoted"
    stop(world, 2)
    world.settle()
    assert world.state(rollout_id).phase == "rolled_back"
    assert world.rollouts.routes("fraud").champion == arm(1)


def test_another_version_is_not_held_to_what_one_did(world: World) -> None:
    rollout_id = to_canary(world)
    stop(world, 1)
    world.settle()
    assert world.state(rollout_id).phase == "canary"


def test_stops_are_cleared_by_a_person_where_there_are_any(world: World) -> None:
    with pytest.raises(Refused, match="nothing to clear"):
        clear_stops(world.rollouts, "fraud", **WHO, clock=world.clock)
    stop(world, 1)
    clear_stops(world.rollouts, "fraud", **WHO, clock=world.clock)
    routes = world.rollouts.routes("fraud")
    assert routes.cleared == routes.generation
    assert isinstance(world.rollouts.controls("fraud")[-1], StopsCleared)


def paused(world: World, rollout_id: str) -> RolloutState:
    return pause(world.rollouts, rollout_id, **WHO, clock=world.clock)


def resumed(world: World, rollout_id: str) -> RolloutState:
    return resume(world.rollouts, rollout_id, **WHO, clock=world.clock)


def healthy(world: World) -> None:
    """The traffic of the present canary step, as good as it has to be."""
    generation = world.generation()
    world.log.rows[generation] = canary_rows(2000, 5, generation=generation, version=2)


def test_a_paused_rollout_takes_no_step_forward_and_goes_on_where_it_was(world: World) -> None:
    rollout_id = to_canary(world)
    state = paused(world, rollout_id)
    assert (state.phase, state.paused is not None) == ("canary", True)
    healthy(world)
    report = world.settle()
    assert report.waits[0] == f"{rollout_id}: paused by ana: whole countries declined"
    assert world.state(rollout_id).percent == 5
    assert resumed(world, rollout_id).paused is None
    world.settle()
    assert world.state(rollout_id).percent == 25
    assert world.rollouts.verify() == ()


def test_harm_takes_a_paused_rollout_back(world: World) -> None:
    rollout_id = to_canary(world)
    paused(world, rollout_id)
    generation = world.generation()
    world.log.rows[generation] = failing_rows(4000, generation)
    world.settle()
    assert world.state(rollout_id).phase == "rolled_back"


def test_deadlines_stand_still_while_it_is_paused(world: World) -> None:
    rollout_id = to_canary(world)
    world.pass_time(100)
    paused(world, rollout_id)
    world.pass_time(1000)
    world.settle()
    resumed(world, rollout_id)
    world.settle()
    assert world.state(rollout_id).phase == "canary", "100 of its 168 hours are over"
    world.pass_time(67)
    world.settle()
    assert world.state(rollout_id).phase == "canary"
    world.pass_time(2)
    world.settle()
    assert world.state(rollout_id).phase == "rolled_back"


def test_an_approval_that_is_given_in_a_pause_counts_after_it(world: World) -> None:
    rollout_id = world.open(2)
    world.settle()
    world.pass_time()
    generation = world.generation()
    world.log.rows[generation] = shadow_rows(70, 2, generation=generation, version=2)
    world.settle()
    paused(world, rollout_id)
    world.approve(rollout_id)
    world.settle()
    assert world.state(rollout_id).phase == "awaiting_approval"
    resumed(world, rollout_id)
    world.settle()
    assert world.state(rollout_id).phase == "canary"


def test_an_approval_in_a_pause_is_in_time_though_the_deadline_would_have_passed(
    world: World,
) -> None:
    rollout_id = world.open(2)
    world.settle()
    world.pass_time()
    generation = world.generation()
    world.log.rows[generation] = shadow_rows(70, 2, generation=generation, version=2)
    world.settle()
    world.pass_time(167)
    paused(world, rollout_id)
    world.pass_time(5)
    world.approve(rollout_id)
    world.pass_time(5)
    world.settle()
    assert world.state(rollout_id).phase == "awaiting_approval"
    resumed(world, rollout_id)
    world.settle()
    assert world.state(rollout_id).phase == "canary"


@pytest.mark.parametrize(
    ("pause_h", "resume_h", "still_h"),
    [(50, 100, 98), (10, 20, 48), (40, 60, 60), (60, 60, 48)],
    ids=["after the freeze", "within it", "across its end", "of no length"],
)
def test_what_is_paused_and_frozen_stands_still_once(
    world: World, pause_h: int, resume_h: int, still_h: int
) -> None:
    state = world.state(to_canary(world))
    began = FROZEN_MS
    spans = (Pause((resume_h - pause_h) * HOUR_MS, began + pause_h * HOUR_MS,
                   began + resume_h * HOUR_MS),)  # fmt: skip
    state = dataclasses.replace(state, since_event_ms=0, since_wall_ms=began, pauses=spans)
    window = FreezeWindow(start="2026-11-02", end="2026-11-03", reason="an audit")
    policy = msgspec.structs.replace(
        world.definition.rollout, freeze=FreezePolicy(windows=(window,))
    )
    after = began + 101 * HOUR_MS
    assert excluded_time(state, policy, 101 * HOUR_MS, after) == (still_h * HOUR_MS,) * 2


def test_a_rollout_that_is_aborted_answers_nobody_at_once(world: World) -> None:
    rollout_id = to_canary(world)
    paused(world, rollout_id)
    state = abort(world.rollouts, rollout_id, **WHO, clock=world.clock)
    assert (state.phase, state.paused) == ("rolled_back", None)
    assert state.reason == "aborted by ana: whole countries declined"
    routes = world.rollouts.routes("fraud")
    assert (routes.challenger, routes.challenger_percent) == (None, 0.0)


ACTS = pytest.mark.parametrize("act", [pause, resume, abort], ids=["pause", "resume", "abort"])


@ACTS
def test_nothing_is_asked_of_a_rollout_that_nobody_opened(world: World, act: Any) -> None:
    with pytest.raises(NotFound, match="fraud-v9-1"):
        act(world.rollouts, "fraud-v9-1", **WHO, clock=world.clock)


@ACTS
def test_nothing_is_asked_of_a_rollout_that_has_ended(world: World, act: Any) -> None:
    rollout_id = to_canary(world)
    world.back()
    before = world.rollouts.read(rollout_id)
    with pytest.raises(Refused, match="rolled_back"):
        act(world.rollouts, rollout_id, **WHO, clock=world.clock)
    assert world.rollouts.read(rollout_id) == before


def test_nobody_pauses_twice_or_resumes_what_goes_on(world: World) -> None:
    rollout_id = to_canary(world)
    with pytest.raises(Refused, match="not paused"):
        resumed(world, rollout_id)
    paused(world, rollout_id)
    with pytest.raises(Refused, match="is paused by ana"):
        paused(world, rollout_id)
    resumed(world, rollout_id)
    with pytest.raises(Refused, match="not paused"):
        resumed(world, rollout_id)


def test_an_abort_means_one_rollout_and_no_other(world: World) -> None:
    first = to_canary(world)
    world.back()
    second = to_canary(world, 3)
    with pytest.raises(Refused, match="rolled_back"):
        abort(world.rollouts, first, **WHO, clock=world.clock)
    assert world.state(second).phase == "canary"


def test_the_fold_refuses_a_step_forward_of_a_paused_rollout(world: World) -> None:
    rollout_id = to_canary(world)
    facts = world.rollouts.read(rollout_id)
    *before, step = facts
    assert isinstance(step, CanaryStepped)
    stop = Paused(**FACT, rollout_id=rollout_id)
    with pytest.raises(Refused, match="is paused by ana"):
        fold([*before, stop, step])


def frozen_world(world: World) -> FreezePeriod:
    """The world's model frozen from now on, for two days."""
    now = datetime.fromtimestamp(world.clock.wall / 1000, UTC)
    window = FreezeWindow(
        start=f"{now:%Y-%m-%d}", end=f"{now + timedelta(days=1):%Y-%m-%d}", reason="an audit"
    )
    policy = msgspec.structs.replace(
        world.definition.rollout, freeze=FreezePolicy(windows=(window,))
    )
    world.definition = msgspec.structs.replace(world.definition, rollout=policy)
    frozen = frozen_at(policy.freeze, world.clock.wall)
    assert frozen is not None
    return frozen


def test_a_frozen_rollout_says_until_when_and_then_goes_on(world: World) -> None:
    rollout_id = to_canary(world)
    healthy(world)
    frozen = frozen_world(world)
    report = world.settle()
    assert report.waits[0] == f"{rollout_id}: frozen until {frozen.until}: an audit"
    world.clock.wall = frozen.until_ms
    world.settle()
    assert world.state(rollout_id).percent == 25


def test_harm_takes_a_frozen_rollout_back(world: World) -> None:
    rollout_id = to_canary(world)
    frozen_world(world)
    generation = world.generation()
    world.log.rows[generation] = failing_rows(4000, generation)
    world.settle()
    assert world.state(rollout_id).phase == "rolled_back"


def test_a_frozen_rollout_has_its_whole_time_afterwards(world: World) -> None:
    rollout_id = to_canary(world)
    began = world.clock.wall
    frozen = frozen_world(world)
    policy = world.definition.rollout
    world.clock.wall = frozen.until_ms
    world.clock.event += 168 * 3_600_000 + 1000  # as a deadline that had run all the while
    world.settle()
    assert world.state(rollout_id).phase == "canary"
    since = running_since_wall_ms(world.state(rollout_id), policy, world.clock.wall)
    assert since - began == pytest.approx(frozen.until_ms - began, abs=5_000)
