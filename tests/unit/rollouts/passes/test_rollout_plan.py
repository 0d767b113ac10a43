"""Plans: one step at a time, always a reason, and nothing left to do once it was done."""

from __future__ import annotations

import dataclasses
from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.model.policies.rollout import RolloutPolicy
from mlplatform.model.routes import Routes, no_routes
from mlplatform.rollouts.journal.journal import GatewayLease
from mlplatform.rollouts.journal.state import RolloutState, apply, fold
from mlplatform.rollouts.journal.transitions import Answered, DeployRefused, Opened, decode, encode
from mlplatform.rollouts.passes.execute import transition_of
from mlplatform.rollouts.passes.next_step import (
    Advance,
    AskApproval,
    Deploy,
    Hold,
    Observation,
    Promote,
    Retire,
    RollBack,
    Service,
    Supersede,
    canary_step,
    is_last_step,
    next_step,
    reconciled_services,
)
from mlplatform.rollouts.passes.wait_reasons import Now
from mlplatform.rollouts.verdicts.judgement import Judgement
from mlplatform.runtime.errors import Refused
from mlplatform.runtime.units import DAY_MS, HOUR_MS
from rollout_world import arm, fraud, gate_report

POLICY = fraud().rollout
NOW = Now(event_ms=10 * DAY_MS, wall_ms=10 * DAY_MS)
READY = Service(deployed=True, ready=True, reason="")
ABSENT = Service(deployed=False, ready=False, reason="not deployed")
STEADY = Routes("fraud", 4, arm(1), None, None, None, "steady", 0.0)
VerdictName = Literal["HEALTHY", "UNHEALTHY", "INCONCLUSIVE"]


def opened(*, bootstrap: bool = False) -> Opened:
    return Opened(
        rollout_id="fraud-v2-1",
        model="fraud",
        event_ms=NOW.event_ms,
        wall_ms=NOW.wall_ms,
        actor="ann",
        reason="better",
        challenger=arm(2),
        author="ann",
        alert_low=0.0,
        alert_high=0.1,
        bootstrap=bootstrap,
        approval="none",
        validation=gate_report(arm(2).bundle),
    )


def judged(verdict: VerdictName) -> Judgement:
    return Judgement(verdict, (f"it is {verdict.lower()}",), {"verdict": verdict})


@dataclasses.dataclass
class Simulation:
    """A rollout in which every step is taken at once and as planned."""

    state: RolloutState
    routes: Routes
    service: Service = ABSENT

    def seen(self, judgement: Judgement | None) -> Observation:
        provisional = self.state.phase == "promoted" and self.routes.champion == arm(2)
        return Observation(self.routes, self.service, judgement, provisional, None)

    def take(self, verdict: VerdictName | None, now: Now = NOW) -> object:
        judgement = None if verdict is None else judged(verdict)
        step = next_step(self.state, self.seen(judgement), POLICY, now)
        if isinstance(step, Deploy):
            self.service = READY
        elif not isinstance(step, Hold):
            fact = transition_of(step, self.state, self.routes, now=now, actor="pass")
            assert decode(encode(fact)) == fact
            self.state = apply(self.state, fact)
            routes = getattr(step, "routes", None)
            if routes is not None:
                assert routes.generation == self.routes.generation + 1
                self.routes = routes
        return step

    def answer(self, answer: Literal["approve", "reject"], approver: str = "bob") -> None:
        assert self.state.asked_digest is not None
        self.state = apply(
            self.state,
            Answered(
                rollout_id="fraud-v2-1",
                model="fraud",
                event_ms=NOW.event_ms,
                wall_ms=NOW.wall_ms,
                actor=approver,
                reason="looked at it",
                answer=answer,
                approver=approver,
                bound_to=self.state.asked_digest,
            ),
        )


def started(*, bootstrap: bool = False) -> Simulation:
    routes = no_routes("fraud") if bootstrap else STEADY
    return Simulation(fold([opened(bootstrap=bootstrap)]), routes)


def in_canary() -> Simulation:
    world = started()
    for verdict in (None, None, "HEALTHY"):
        world.take(verdict)  # type: ignore[arg-type]
    world.answer("approve")
    world.take(None)
    assert world.state.phase == "canary"
    return world


VERDICTS = st.sampled_from(["HEALTHY", "UNHEALTHY", "INCONCLUSIVE", None])
MOMENTS = st.tuples(
    VERDICTS,
    st.sampled_from(["approve", "reject", None]),
    st.integers(0, 200 * HOUR_MS),
)


@given(st.lists(MOMENTS, max_size=25), st.booleans())
def test_a_step_that_was_taken_is_not_planned_again(
    moments: list[tuple[VerdictName | None, Literal["approve", "reject"] | None, int]],
    bootstrap: bool,
) -> None:
    world, now = started(bootstrap=bootstrap), NOW
    for verdict, answer, elapsed_ms in moments:
        now = Now(now.event_ms + elapsed_ms, now.wall_ms + elapsed_ms)
        if answer and world.state.phase == "awaiting_approval" and not world.state.answer:
            world.answer(answer)
        world.take(verdict, now)
        before = (world.state, world.routes, world.service)
        # nothing new is known: the plan that follows is to do nothing, or to go on elsewhere
        for _ in range(4):
            world.take(None, now)
        settled = (world.state, world.routes, world.service)
        assert isinstance(world.take(None, now), Hold)
        assert (world.state, world.routes, world.service) == settled
        assert world.routes.generation >= before[1].generation
        assert world.routes.champion is not None or bootstrap


@given(st.lists(MOMENTS, max_size=25))
def test_nothing_but_health_advances(
    moments: list[tuple[VerdictName | None, Literal["approve", "reject"] | None, int]],
) -> None:
    world = in_canary()
    for verdict, _, elapsed_ms in moments:
        before = world.state
        world.take(verdict, Now(NOW.event_ms + elapsed_ms, NOW.wall_ms))
        if verdict != "HEALTHY" and world.state != before:
            assert world.state.phase in ("rolled_back", "confirmed", "superseded")
        if world.state.finished:
            return


def test_the_ramp_takes_every_step_of_the_policy() -> None:
    world = in_canary()
    percents = [world.routes.challenger_percent]
    while world.state.phase == "canary":
        world.take("HEALTHY")
        percents.append(world.routes.challenger_percent)
    assert percents == [5, 25, 50, 0]
    assert (world.routes.champion, world.routes.previous) == (arm(2), arm(1))
    assert world.routes.phase == "steady"


@pytest.mark.parametrize(
    ("percent", "held_to", "last"), [(1, 5, False), (10, 25, False), (50, 50, True), (80, 50, True)]
)
def test_a_share_that_the_policy_has_not_any_more_is_held_to_the_next_one(
    percent: float, held_to: float, last: bool
) -> None:
    """A rollout goes on by its share of customers, also where model.yaml has other steps by now."""
    assert canary_step(POLICY, percent).percent == held_to
    assert is_last_step(POLICY, percent) == last


def test_a_first_version_goes_from_approval_to_promotion() -> None:
    world = started(bootstrap=True)
    assert isinstance(world.take(None), Deploy)
    asked = world.take(None)
    assert isinstance(asked, AskApproval)
    assert asked.evidence["validation"] == gate_report(arm(2).bundle)
    world.answer("approve")
    assert isinstance(world.take(None), Promote)
    assert world.routes.champion == arm(2)


def test_a_challenger_is_approved_by_its_gates_and_by_its_traffic() -> None:
    world = started()
    world.take(None)
    world.take(None)
    asked = world.take("HEALTHY")
    assert isinstance(asked, AskApproval)
    assert asked.evidence["validation"] == gate_report(arm(2).bundle)
    assert asked.evidence["verdict"] == "HEALTHY"


def test_a_rollout_of_an_earlier_release_has_no_gate_report() -> None:
    row = encode(opened()).replace(b'"validation":', b'"dropped":')
    assert fold([decode(row)]).validation == {}


def test_without_approval_in_the_policy_nobody_is_asked() -> None:
    world = started()
    world.take(None)
    world.take(None)
    policy = msgspec.structs.replace(POLICY, approval="none")
    step = next_step(world.state, world.seen(judged("HEALTHY")), policy, NOW)
    assert step.routes.challenger_percent == 5  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("event_ms", "wall_ms", "expired"),
    [
        (int(POLICY.canary[0].deadline_h * HOUR_MS) - 1, 0, False),
        (int(POLICY.canary[0].deadline_h * HOUR_MS), 0, True),
        (0, int(POLICY.step_wall_deadline_s * 1000) - 1, False),
        (0, int(POLICY.step_wall_deadline_s * 1000), True),
    ],
)
def test_a_step_expires_at_the_earlier_of_two_deadlines(
    event_ms: int, wall_ms: int, expired: bool
) -> None:
    world = in_canary()
    step = world.take("INCONCLUSIVE", Now(NOW.event_ms + event_ms, NOW.wall_ms + wall_ms))
    assert isinstance(step, RollBack if expired else Hold)


def lasting(hours: float) -> RolloutPolicy:
    first = msgspec.structs.replace(POLICY.canary[0], minimum_h=hours)
    return msgspec.structs.replace(POLICY, canary=(first, *POLICY.canary[1:]))


@pytest.mark.parametrize(("hours", "moves"), [(23.9, Hold), (24.0, Advance)])
def test_a_healthy_step_lasts_its_time_and_is_taken_back_in_it_where_harm_is_proven(
    hours: float, moves: type
) -> None:
    world, now = in_canary(), Now(NOW.event_ms + round(hours * HOUR_MS), NOW.wall_ms)
    move = next_step(world.state, world.seen(judged("HEALTHY")), lasting(24), now)
    assert isinstance(move, moves)
    if isinstance(move, Hold):
        assert move.reason.startswith("healthy, and lasts until event time ")
    harmful = next_step(world.state, world.seen(judged("UNHEALTHY")), lasting(24), now)
    assert isinstance(harmful, RollBack)


def test_a_healthy_step_without_traffic_ends_at_its_deadline_on_the_wall() -> None:
    world = in_canary()
    now = Now(NOW.event_ms, NOW.wall_ms + round(POLICY.step_wall_deadline_s * 1000))
    move = next_step(world.state, world.seen(judged("HEALTHY")), lasting(24), now)
    assert isinstance(move, RollBack)
    assert move.reason.startswith("healthy before its minimum_h (24) at its deadline (")


def test_evidence_counts_even_at_the_deadline() -> None:
    world = in_canary()
    world.take("HEALTHY", Now(NOW.event_ms + 97 * HOUR_MS, NOW.wall_ms))
    assert world.state.step == 1


def test_an_unhealthy_shadow_is_taken_back_even_while_somebody_decides() -> None:
    world = started()
    for verdict in (None, None, "HEALTHY"):
        world.take(verdict)  # type: ignore[arg-type]
    assert isinstance(world.take("UNHEALTHY"), RollBack)
    assert world.routes.challenger is None


def test_a_question_without_answer_expires() -> None:
    world = started()
    for verdict in (None, None, "HEALTHY"):
        world.take(verdict)  # type: ignore[arg-type]
    step = world.take("HEALTHY", Now(NOW.event_ms + 168 * HOUR_MS, NOW.wall_ms))
    assert isinstance(step, RollBack)
    assert step.reason.startswith("nobody answered")


def test_a_first_champion_has_nothing_to_go_back_to() -> None:
    world = started(bootstrap=True)
    world.take(None)
    world.take(None)
    world.answer("approve")
    world.take(None)
    step = world.take("UNHEALTHY")
    assert isinstance(step, Hold)
    assert "no predecessor" in step.reason


def test_a_provisional_champion_is_not_taken_back_while_another_version_ramps() -> None:
    world = in_canary()
    while world.state.phase == "canary":
        world.take("HEALTHY")
    steady = world.routes
    world.routes = dataclasses.replace(steady, challenger=arm(3), phase="canary")
    step = world.take("UNHEALTHY")
    assert isinstance(step, Hold)
    assert "version 3" in step.reason
    world.routes = steady
    assert isinstance(world.take("UNHEALTHY"), RollBack)


def test_a_provisional_champion_goes_back_on_harm_and_stands_after_its_days() -> None:
    world = in_canary()
    while world.state.phase == "canary":
        world.take("HEALTHY")
    assert isinstance(world.take("HEALTHY"), Hold)
    other = dataclasses.replace(world)
    assert isinstance(other.take("UNHEALTHY"), RollBack)
    assert other.routes.champion == arm(1)
    later = Now(NOW.event_ms + 7 * DAY_MS, NOW.wall_ms)
    assert isinstance(world.take("INCONCLUSIVE", later), Hold)
    world.take("HEALTHY", later)
    assert world.state.phase == "confirmed"
    assert world.routes.previous is None


def test_a_confirmation_leaves_routes_alone_that_another_rollout_uses() -> None:
    world = in_canary()
    while world.state.phase == "canary":
        world.take("HEALTHY")
    world.routes = dataclasses.replace(world.routes, challenger=arm(3), phase="shadow")
    before = world.routes
    world.take("HEALTHY", Now(NOW.event_ms + 7 * DAY_MS, NOW.wall_ms))
    assert world.state.phase == "confirmed"
    assert world.routes == before


def test_a_replaced_champion_waits_until_the_other_one_stands() -> None:
    world = in_canary()
    while world.state.phase == "canary":
        world.take("HEALTHY")
    world.routes = dataclasses.replace(world.routes, champion=arm(3), previous=arm(2))
    seen = Observation(world.routes, READY, None, True, None)
    assert isinstance(next_step(world.state, seen, POLICY, NOW), Hold)
    seen = dataclasses.replace(seen, champion_is_provisional=False)
    assert isinstance(next_step(world.state, seen, POLICY, NOW), Supersede)


def test_approval_is_checked_by_the_journal_itself() -> None:
    world = started()
    for verdict in (None, None, "HEALTHY"):
        world.take(verdict)  # type: ignore[arg-type]
    waiting = world.state
    world.answer("approve")
    step = next_step(world.state, world.seen(None), POLICY, NOW)
    fact = transition_of(step, world.state, world.routes, now=NOW, actor="x")  # type: ignore[arg-type]
    with pytest.raises(Refused, match="not approved"):
        apply(waiting, fact)


GATEWAY = [GatewayLease("gateway-1", 4)]


REFUSED = Service(deployed=False, ready=False, reason="room for 0 of 2 pods", refused=True)
LATE = Now(NOW.event_ms, NOW.wall_ms + int(POLICY.deploy_wall_deadline_s * 1000))


@pytest.mark.parametrize(
    ("service", "refused", "champion_deployed", "reason"),
    [
        (REFUSED, "room for 1 of 2 pods", True, "room for 0 of 2 pods"),
        (ABSENT, "room for 1 of 2 pods", True, "room for 1 of 2 pods"),
        (ABSENT, None, False, "the champion's service is missing and is started first"),
        (ABSENT, None, True, "not deployed"),
    ],
    ids=["refused now", "refused by an earlier pass", "after the champion", "never tried"],
)
def test_a_verdict_at_the_deadline_says_what_kept_the_service_from_starting(
    service: Service, refused: str | None, champion_deployed: bool, reason: str
) -> None:
    state = dataclasses.replace(fold([opened()]), refused=refused)
    seen = Observation(STEADY, service, None, False, None, champion_deployed)
    step = next_step(state, seen, POLICY, LATE)
    assert isinstance(step, RollBack)
    assert step.reason == f"not ready in time: {reason}"


def test_a_service_that_was_refused_is_not_tried_twice_in_one_pass() -> None:
    seen = Observation(STEADY, REFUSED, None, False, None)
    step = next_step(fold([opened()]), seen, POLICY, NOW)
    assert step == Hold(f"{arm(2).service} can't be started: room for 0 of 2 pods")


def test_a_challenger_is_started_after_a_champion_whose_service_is_lost() -> None:
    seen = Observation(STEADY, ABSENT, None, False, None, champion_deployed=False)
    assert isinstance(next_step(fold([opened()]), seen, POLICY, NOW), Hold)


def test_a_refusal_begins_no_phase_and_follows_only_an_opening() -> None:
    state = fold([opened()])
    said = DeployRefused(
        rollout_id="fraud-v2-1",
        model="fraud",
        event_ms=NOW.event_ms + 1,
        wall_ms=NOW.wall_ms + 1,
        actor="pass",
        reason="room for 0 of 2 pods",
    )
    assert decode(encode(said)) == said
    told = apply(state, said)
    assert told == dataclasses.replace(state, refused=said.reason, reason=said.reason)
    with pytest.raises(Refused, match="of its service can't follow; wanted: deploying"):
        apply(in_canary().state, said)


def test_a_pass_stops_what_nothing_needs_before_it_starts_what_the_routes_list() -> None:
    deployed = [arm(7).service, "fraud-eu-v7-aaaaaaaa", "other-v1-aaaaaaaa"]
    steps = reconciled_services(STEADY, [], deployed, GATEWAY)
    assert [type(step) for step in steps] == [Retire, Deploy]
    assert steps[0].service == arm(7).service  # type: ignore[union-attr]


def test_a_pass_keeps_a_service_for_the_rollout_that_deploys_it() -> None:
    deployed = [arm(1).service, arm(2).service]
    assert reconciled_services(STEADY, [fold([opened()])], deployed, GATEWAY) == ()


@pytest.mark.parametrize("generation", [3, None])
def test_a_pass_waits_for_the_slowest_gateway(generation: int | None) -> None:
    deployed = [arm(1).service, arm(2).service]
    (step,) = reconciled_services(
        STEADY, [], deployed, [*GATEWAY, GatewayLease("slow", generation)]
    )
    assert isinstance(step, Hold)
    assert "slow" in step.reason


def test_the_author_of_a_version_cannot_answer_whatever_wrote_the_journal() -> None:
    world = started(bootstrap=True)
    for verdict in (None, None):
        world.take(verdict)
    assert world.state.phase == "awaiting_approval"
    for name in ("ann", "Ann", "\u0430nn"):  # the last begins with a Cyrillic a
        with pytest.raises(Refused, match="somebody else must decide"):
            world.answer("approve", name)
    world.answer("approve", "bob")
