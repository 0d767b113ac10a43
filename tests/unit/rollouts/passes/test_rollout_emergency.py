"""One person may promote a version at once, and it stays only if a second one says so in time."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.unit.rollouts.passes.test_rollout_passes import World, bootstrap, to_canary, validated

from mlplatform.observing.exporter.state import StateCollector
from mlplatform.rollouts.journal.approval_codes import Question
from mlplatform.rollouts.journal.state import EMERGENCY_CONFIRM_H, RolloutState, fold
from mlplatform.rollouts.journal.transitions import Answered, Confirmed, Opened, Promoted
from mlplatform.rollouts.passes.commands import open_rollout, record_approval
from mlplatform.rollouts.passes.controls import pause
from mlplatform.rollouts.passes.next_step import Hold, Observation, Service, next_step
from mlplatform.rollouts.passes.summary import question
from mlplatform.rollouts.passes.wait_reasons import Now
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.errors import Busy, Refused
from mlplatform.runtime.units import HOUR_MS
from rollout_world import arm


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    bootstrap(made)
    return made


def opened(world: World, version: int = 2, actor: str = "eve") -> str:
    return open_rollout(
        world.rollouts, "fraud", validated(version), approval="required", actor=actor,
        reason="the champion lets everything through", clock=world.clock, emergency=True,
    )  # fmt: skip


def promoted(world: World) -> str:
    """Champion after a pass: no shadow, no canary, no approval."""
    rollout_id = opened(world)
    world.settle()
    world.generation()
    world.settle()
    return rollout_id


def answered(world: World, rollout_id: str, answer: Any, approver: str) -> RolloutState:
    asked = world.state(rollout_id).asked_digest
    assert asked is not None
    told = Question(rollout_id, asked, answer)
    return record_approval(
        world.rollouts, told, approver, "looked at it", proven_by="code", clock=world.clock
    )


def champion(world: World) -> Any:
    return world.rollouts.routes("fraud").champion


def test_one_person_promotes_at_once_and_a_second_is_asked(world: World) -> None:
    rollout_id = promoted(world)
    state = world.state(rollout_id)
    assert (state.phase, champion(world)) == ("promoted", arm(2))
    assert world.rollouts.routes("fraud").previous == arm(1)
    assert [type(f).__name__ for f in world.rollouts.read(rollout_id)] == ["Opened", "Promoted"]
    assert state.asked_digest in world.approvals.asked
    evidence = world.rollouts.read(rollout_id)[-1].evidence
    assert evidence["validation"], "who confirms sees the version's gate report"
    asked = question(rollout_id, evidence)
    assert "eve alone promoted it in an emergency" in asked
    assert "**reject**: the champion before it answers again; so it does if nobody decides" in asked


def test_it_stays_once_a_second_person_confirms(world: World) -> None:
    rollout_id = promoted(world)
    answered(world, rollout_id, "approve", "bob")
    world.clock.wall += 48 * HOUR_MS
    world.settle()
    assert world.state(rollout_id).phase == "promoted"
    world.live_on()
    world.settle()
    assert world.state(rollout_id).phase == "confirmed"
    assert world.rollouts.verify() == ()


def test_it_is_undone_by_the_next_pass_after_a_day_without_a_second_person(world: World) -> None:
    rollout_id = promoted(world)
    world.clock.wall = world.state(rollout_id).since_wall_ms + EMERGENCY_CONFIRM_H * HOUR_MS - 1
    world.settle()
    assert champion(world) == arm(2)
    world.clock.wall += 1
    world.settle()
    assert world.state(rollout_id).phase == "rolled_back"
    assert champion(world) == arm(1)


def test_it_is_undone_at_once_where_a_second_person_rejects(world: World) -> None:
    rollout_id = promoted(world)
    answered(world, rollout_id, "reject", "bob")
    world.settle()
    assert world.state(rollout_id).phase == "rolled_back"
    assert champion(world) == arm(1)


def test_event_time_that_runs_ahead_confirms_nothing_that_nobody_confirmed(world: World) -> None:
    rollout_id = promoted(world)
    world.live_on()
    world.settle()
    assert world.state(rollout_id).phase == "promoted"


@pytest.mark.parametrize("approver", ["eve", "Eve", "ève", "ann", "ann@bank.example"])
def test_neither_who_asked_for_it_nor_the_author_is_the_second_person(
    world: World, approver: str
) -> None:
    rollout_id = promoted(world)
    before = world.rollouts.read(rollout_id)
    with pytest.raises(Refused, match="somebody else"):
        answered(world, rollout_id, "approve", approver)
    assert world.rollouts.read(rollout_id) == before


def test_a_confirmation_that_comes_too_late_is_refused_by_the_journal(world: World) -> None:
    rollout_id = promoted(world)
    world.clock.wall += EMERGENCY_CONFIRM_H * HOUR_MS
    with pytest.raises(Refused, match="within 24 h"):
        answered(world, rollout_id, "approve", "bob")


def test_a_confirmation_of_another_rollout_is_refused(world: World) -> None:
    first = promoted(world)
    old = world.state(first).asked_digest
    assert old is not None
    world.back()
    world.settle()
    second = opened(world, 3)
    world.settle()
    world.generation()
    world.settle()
    assert world.state(second).phase == "promoted"
    with pytest.raises(Refused, match="the answer is about evidence"):
        record_approval(
            world.rollouts, Question(second, old, "approve"), "bob", "looked at it",
            proven_by="code", clock=world.clock,
        )  # fmt: skip


def test_it_is_answered_once(world: World) -> None:
    rollout_id = promoted(world)
    answered(world, rollout_id, "approve", "bob")
    count = len(world.rollouts.read(rollout_id))
    answered(world, rollout_id, "approve", "bob")
    assert len(world.rollouts.read(rollout_id)) == count
    with pytest.raises(Refused, match="was answered by bob"):
        answered(world, rollout_id, "reject", "cyd")


def test_an_emergency_that_has_ended_is_not_confirmed(world: World) -> None:
    rollout_id = promoted(world)
    world.back()
    with pytest.raises(Refused, match="rolled_back"):
        answered(world, rollout_id, "approve", "bob")


def test_who_asks_again_and_again_gets_no_second_day(world: World) -> None:
    rollout_id = promoted(world)
    world.clock.wall += EMERGENCY_CONFIRM_H * HOUR_MS
    world.settle()
    assert world.state(rollout_id).phase == "rolled_back"
    with pytest.raises(Refused, match="was not confirmed"):
        opened(world)
    assert world.open(2), "the ordinary way is free"


def test_one_emergency_waits_for_its_second_person_before_there_is_another(world: World) -> None:
    rollout_id = promoted(world)
    with pytest.raises(Refused, match=f"{rollout_id} waits for a second person"):
        opened(world, 3)
    answered(world, rollout_id, "approve", "bob")
    assert opened(world, 3)


def test_what_has_nobody_to_go_back_to_is_not_called_undone(world: World) -> None:
    rollout_id = promoted(world)
    routes = world.rollouts.routes("fraud")
    state = world.state(rollout_id)
    late = Now(world.clock.event, world.clock.wall + EMERGENCY_CONFIRM_H * HOUR_MS)
    alone = Observation(
        dataclasses.replace(routes, previous=None), Service(True, True, ""), None, False, None, True
    )
    step = next_step(state, alone, world.definition.rollout, late)
    assert isinstance(step, Hold)
    assert "no predecessor to go back to" in step.reason


def test_a_rollout_under_way_does_not_become_an_emergency(world: World) -> None:
    to_canary(world)
    with pytest.raises(Busy, match="rollouts abort"):
        opened(world)


def test_there_is_no_emergency_without_a_champion_to_go_back_to(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="has no champion that could come back"):
        opened(World(tmp_path))


def test_nobody_answers_for_an_ordinary_promotion(world: World) -> None:
    rollout_id = promoted(world)
    opening, promotion = world.rollouts.read(rollout_id)
    assert isinstance(opening, Opened)
    assert isinstance(promotion, Promoted)
    ordinary = fold([Opened(**(fields(opening) | {"emergency": False, "bootstrap": True,
                                                  "approval": "none"})), promotion])  # fmt: skip
    answer = Answered(
        **(fields(promotion, Answered)), answer="approve", approver="bob",
        bound_to=promotion.evidence_digest,
    )  # fmt: skip
    assert ordinary.phase == "promoted"
    with pytest.raises(Refused, match="an answer can't follow"):
        fold([Opened(**(fields(opening) | {"emergency": False, "bootstrap": True,
                                           "approval": "none"})), promotion, answer])  # fmt: skip


def test_the_fold_confirms_no_emergency_without_a_second_person(world: World) -> None:
    rollout_id = promoted(world)
    facts = world.rollouts.read(rollout_id)
    confirmed = Confirmed(**fields(facts[-1], Confirmed))
    with pytest.raises(Refused, match="was not approved"):
        fold([*facts, confirmed])


def test_the_fold_promotes_nobody_at_once_who_did_not_ask_for_an_emergency(world: World) -> None:
    opening, promotion = world.rollouts.read(promoted(world))
    with pytest.raises(Refused, match="shadow and canary come first"):
        fold([Opened(**(fields(opening) | {"emergency": False})), promotion])


def test_an_emergency_is_promoted_in_a_freeze(world: World) -> None:
    from tests.unit.rollouts.passes.test_rollout_controls import frozen_world

    frozen_world(world)
    assert world.state(promoted(world)).phase == "promoted"


def fields(fact: Any, kind: type[Any] | None = None) -> dict[str, Any]:
    """What a fact is made of, or the part of it that another kind takes."""
    names = (kind or type(fact)).__struct_fields__
    return {name: getattr(fact, name) for name in names if hasattr(fact, name)}


def exported(world: World, name: str) -> float | None:
    home = Home(world.folder)
    state = StateCollector(
        lambda: ("fraud",), world.rollouts, NoIncidents(), tuple, world.clock, world.folder, home
    )
    registry = CollectorRegistry()
    registry.register(state)
    return registry.get_sample_value(f"mlplatform_{name}", {"model": "fraud"})


class NoIncidents:
    def list(self, model: str | None = None, *, closed: bool = True) -> list[Any]:
        return []


def test_an_alert_can_tell_that_a_second_person_is_waited_for(world: World) -> None:
    rollout_id = promoted(world)
    assert exported(world, "emergency_unconfirmed") == 1.0
    answered(world, rollout_id, "approve", "bob")
    assert exported(world, "emergency_unconfirmed") == 0.0


def test_a_paused_rollout_is_not_overdue(world: World) -> None:
    rollout_id = to_canary(world)
    since_s = exported(world, "rollout_phase_since_seconds")
    pause(world.rollouts, rollout_id, actor="ana", reason="it waits", clock=world.clock)
    world.clock.wall += 100_000
    assert since_s is not None
    assert exported(world, "rollout_phase_since_seconds") == since_s + 100
