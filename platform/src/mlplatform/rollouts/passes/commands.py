"""Commands of people on rollouts: open, answer, and roll back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mlplatform.learning.validation.report_entries import ValidationReport
from mlplatform.model.routes import Arm, Routes
from mlplatform.rollouts.journal.admission import (
    check_emergency,
    check_not_champion,
    one_at_a_time,
)
from mlplatform.rollouts.journal.approval_codes import Question
from mlplatform.rollouts.journal.journal import Passes, Rollouts
from mlplatform.rollouts.journal.state import RolloutState, check_approver, fold
from mlplatform.rollouts.journal.transitions import (
    Answered,
    Opened,
    ProvenIdentity,
    RolledBack,
    RolloutPlan,
)
from mlplatform.rollouts.passes.next_step import Observation, Service, rolled_back_routes
from mlplatform.rollouts.serving.names import ServiceName
from mlplatform.runtime.clock import Clock
from mlplatform.runtime.errors import Busy, PlanRefused, Refused

COMMAND_LEASE_TTL_S = 10.0


@dataclass(frozen=True, slots=True)
class ValidatedVersion:
    """A validated version, as the registry knows it.

    Args:
        bundle: full digest of its bundle.
        author: name of the person who made it and may not approve it.
        alert_low, alert_high: ends of the predicted band of its alert share, as shares in [0, 1].
        validation: its gate report, from `learning.validation.report.to_dict`. The approver sees
            the report, and the approval is bound to it.
    """

    version: int
    bundle: str
    author: str
    alert_low: float
    alert_high: float
    validation: ValidationReport


def open_rollout(
    rollouts: Rollouts,
    model: str,
    validated: ValidatedVersion,
    *,
    approval: Literal["required", "none"],
    actor: str,
    reason: str,
    clock: Clock,
    plan: Callable[[Routes], RolloutPlan] | None = None,
    emergency: bool = False,
) -> str:
    """Open a rollout of this version, unless one is ramping already. Returns its id.

    Args:
        approval: setting of model.yaml, recorded in the journal; the rollout keeps it to the end.
        plan: makes the rollout's plan under the present routes. It is called when nothing else
            prevents the rollout. None means that there is no plan.
        emergency: promote the version at once; a second person must confirm it within a day, or it
            is undone.

    Raises:
        Busy: another version is ramping, or an A/B/n test runs.
        PlanRefused: by its plan, the rollout can't decide by its deadlines, and the plan names no
            reason to open it despite that.
        Refused: the version is champion; an earlier emergency promotion of it was not confirmed; or
            another emergency promotion waits for its confirmation.
    """
    earlier = rollouts.active(model, finished=True)
    arm = _arm(model, validated)
    if emergency:
        check_emergency(earlier, arm)
    for state in earlier:
        if state.ramping and state.challenger == arm:
            return state.rollout_id
        if state.ramping:
            raise one_at_a_time(state.rollout_id, model)
    routes = rollouts.routes(model)
    check_not_champion(arm, routes)
    if routes.test is not None and not emergency:  # an emergency promotion ends it
        raise Busy(
            f"test {routes.test.test_id} runs, and no rollout is opened beside it: `mlplatform"
            f" variants end {model}` ends it"
        )
    made = None if plan is None else plan(routes)
    if made is not None and made.refusal and not made.despite:
        raise PlanRefused(made.refusal)
    attempt = 1 + sum(s.challenger.version == validated.version for s in earlier)
    opened = Opened(
        rollout_id=f"{model}-v{validated.version}-{attempt}",
        model=model,
        event_ms=clock.event_ms(),
        wall_ms=clock.wall_ms(),
        actor=actor,
        reason=reason,
        challenger=arm,
        author=validated.author,
        alert_low=validated.alert_low,
        alert_high=validated.alert_high,
        bootstrap=routes.champion is None,
        validation=validated.validation,
        approval=approval,
        plan=made,
        emergency=emergency,
    )
    rollouts.commit(opened, None)
    return opened.rollout_id


def record_approval(
    rollouts: Rollouts,
    question: Question,
    approver: str,
    reason: str,
    *,
    proven_by: str,
    clock: Clock,
    identity: ProvenIdentity | None = None,
) -> RolloutState:
    """Record this answer in the rollout's journal. The same answer again changes nothing.

    Args:
        approver: name that the platform has proven.
        proven_by: how it was proven.
        identity: identity that an identity provider proved; None if there is none.

    Raises:
        Refused: the approver is the version's author, the answer is bound to other evidence than
            the question, nobody was asked, or somebody else answered first.
        NotFound: no rollout has this id.
    """
    state = fold(rollouts.read(question.rollout_id))
    answer = state.answer
    if answer is not None and (
        answer.answer,
        answer.approver,
        answer.bound_to,
        answer.identity,
    ) == (
        question.answer,
        approver,
        question.evidence,
        identity,
    ):
        return state
    check_approver(state, approver, identity)
    answered = Answered(
        rollout_id=question.rollout_id,
        model=state.model,
        event_ms=clock.event_ms(),
        wall_ms=clock.wall_ms(),
        actor=approver,
        reason=reason,
        answer=question.answer,
        approver=approver,
        bound_to=question.evidence,
        proven_by=proven_by,
        identity=identity,
    )
    return rollouts.commit(answered, None)


def roll_back(
    rollouts: Rollouts,
    passes: Passes,
    model: str,
    *,
    actor: str,
    reason: str,
    clock: Clock,
    only: str | None = None,
    identity: ProvenIdentity | None = None,
) -> RolloutState:
    """Take the traffic back at once: from the challenger, or from the champion to its predecessor.

    A running pass loses its lease; the next pass retires the services that nothing needs any more.

    Args:
        only: id of the only rollout that may be taken back; None means whichever has the traffic.
        identity: identity of the actor that an identity provider proved; None if there is none.

    Raises:
        Refused: nothing is ramping, and the champion has no predecessor that is kept warm; or the
            traffic is another rollout's.
    """
    fence = passes.acquire(model, f"roll back by {actor}", COMMAND_LEASE_TTL_S, steal=True)
    if fence is None:
        raise Busy(f"the lease of {model} can't be taken")
    try:
        states = rollouts.active(model, finished=True)
        routes = rollouts.routes(model)
        state = subject_of_roll_back(states, routes)
        if only not in (None, state.rollout_id):
            raise Refused(
                f"{only} has ended; a rollback would now undo {state.rollout_id}: name that one"
            )
        return rollouts.commit(
            RolledBack(
                rollout_id=state.rollout_id,
                model=model,
                event_ms=clock.event_ms(),
                wall_ms=clock.wall_ms(),
                actor=actor,
                reason=reason,
                identity=identity,
            ),
            fence,
            rolled_back_routes(state, _observation_of(states, routes, state)),
        )
    finally:
        passes.release(fence)


def subject_of_roll_back(states: Sequence[RolloutState], routes: Routes) -> RolloutState:
    """The rollout that a rollback takes back now: the ramping one, or else the champion's.

    Args:
        states: all rollouts of the model, including finished ones, oldest first.

    Raises:
        Refused: there is no such rollout.
    """
    for state in states:
        if state.ramping:
            return state
    for state in reversed(states):
        if state.phase == "promoted" and state.challenger == routes.champion and routes.previous:
            return state
    raise Refused(
        f"there is nothing to roll back: no rollout of {routes.model} is under way, and no earlier"
        " champion is kept ready; open a rollout of the version that you want, or switch the model"
        f" off (`mlplatform rollouts kill {routes.model}`), and its fallback decides"
    )


def _observation_of(states: list[RolloutState], routes: Routes, state: RolloutState) -> Observation:
    confirmed: list[Any] = [s.challenger for s in states if s.phase == "confirmed"]
    return Observation(
        routes=routes,
        challenger=Service(deployed=True, ready=True, reason=""),
        judgement=None,
        champion_is_provisional=any(
            s.phase == "promoted" and s.challenger == routes.champion for s in states
        ),
        last_confirmed=confirmed[-1] if confirmed else None,
    )


def _arm(model: str, validated: ValidatedVersion) -> Arm:
    service = str(ServiceName.of(model, validated.version, validated.bundle))
    return Arm(validated.version, validated.bundle, service)
