"""What people and gateways stop: a model switched off, a version that declines too many."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tests.unit.rollouts.test_rollout_passes import World, bootstrap, to_canary, to_promoted

from mlplatform.model.routes import Routes
from mlplatform.rollouts.journal.controls import (
    Control,
    Killed,
    KillLifted,
    StopsCleared,
    check_may_move,
    controlled,
    decode_control,
    encode_control,
    fold_controls,
)
from mlplatform.rollouts.passes.controls import clear_stops, kill, lift
from mlplatform.runtime.errors import Refused, StaleFence
from rollout_world import arm

WHO: dict[str, Any] = {"actor": "ana", "reason": "whole countries declined"}
FACT: dict[str, Any] = {"model": "fraud", "event_ms": 1, "wall_ms": 2, **WHO}
STEADY = Routes("fraud", 4, arm(1), None, None, None, "steady", 0.0)


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
    with pytest.raises(Refused, match="killed already, by ana"):
        fold_controls([Killed(**FACT), Killed(**FACT)])
    with pytest.raises(Refused, match="nothing to lift"):
        fold_controls([Killed(**FACT), KillLifted(**FACT), KillLifted(**FACT)])
    with pytest.raises(Refused, match="nothing to lift"):
        fold_controls([StopsCleared(**FACT), KillLifted(**FACT)])


def test_controls_change_no_arm() -> None:
    for fact in (Killed(**FACT), KillLifted(**FACT), StopsCleared(**FACT)):
        following = controlled(fact, STEADY)
        assert following.generation == STEADY.generation + 1
        assert following.arms == STEADY.arms
    assert controlled(StopsCleared(**FACT), STEADY).cleared == 5


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
    assert report.waits[0] == f"{rollout_id}: fraud is killed: it waits for `rollouts lift`"
    assert world.plane.names() == [arm(1).service]
    lift(world.rollouts, "fraud", **WHO, clock=world.clock)
    world.settle()
    assert world.state(rollout_id).phase == "shadow"


def test_the_journal_itself_refuses_what_a_stale_plan_would_do(world: World) -> None:
    rollout_id = to_canary(world)
    present = world.rollouts.routes("fraud")
    last = world.rollouts.read(rollout_id)[-1]
    off = dataclasses.replace(present, killed=True)
    with pytest.raises(Refused, match="is killed"):
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
    anchored = world.rollouts.anchored()
    killed(world)
    assert world.rollouts.anchored() == anchored
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
