"""The next step of a rollout, or why it waits: a pure function of its state and the
observations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from mlplatform.model.policies.rollout import CanaryStep, RolloutPolicy, ShadowStep
from mlplatform.model.routes import Arm, Routes
from mlplatform.rollouts.journal.evidence import Evidence
from mlplatform.rollouts.journal.journal import GatewayLease
from mlplatform.rollouts.journal.next_routes import following, promoted_routes, shadow_routes
from mlplatform.rollouts.journal.state import EMERGENCY_CONFIRM_H, RolloutState, in_time_to_confirm
from mlplatform.rollouts.passes.wait_reasons import Now, expired, reason_to_wait, waited_time
from mlplatform.rollouts.serving.names import ServiceName
from mlplatform.rollouts.verdicts.judgement import Judgement
from mlplatform.runtime.times import text_of_any, utc_minute_text
from mlplatform.runtime.units import DAY_MS, HOUR_MS, HOUR_S


@dataclass(frozen=True, slots=True)
class Deploy:
    """Start the service of an arm."""

    arm: Arm
    reason: str


@dataclass(frozen=True, slots=True)
class Advance:
    """Take the next phase or canary step."""

    to: Literal["shadow", "canary"]
    step: int | None
    routes: Routes
    reason: str
    evidence: Evidence = field(default_factory=Evidence)


@dataclass(frozen=True, slots=True)
class AskApproval:
    """Ask a person, whose answer is bound to exactly this evidence."""

    reason: str
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Promote:
    """Make the challenger champion, provisionally."""

    routes: Routes
    reason: str
    evidence: Evidence = field(default_factory=Evidence)


@dataclass(frozen=True, slots=True)
class Confirm:
    """Let the promotion stand; `routes` is None where another rollout is using them."""

    routes: Routes | None
    reason: str
    evidence: Evidence = field(default_factory=Evidence)


@dataclass(frozen=True, slots=True)
class Supersede:
    """Close a rollout whose champion was replaced by one that stands."""

    reason: str


@dataclass(frozen=True, slots=True)
class RollBack:
    """Take the challenger, or the provisional champion, away from the traffic."""

    routes: Routes | None
    reason: str
    evidence: Evidence = field(default_factory=Evidence)


@dataclass(frozen=True, slots=True)
class Retire:
    """Stop a service that no gateway can use any more."""

    service: str
    reason: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Wait; the reason says for what."""

    reason: str


Move = Deploy | Advance | AskApproval | Promote | Confirm | Supersede | RollBack | Hold
Step = Move | Retire


@dataclass(frozen=True, slots=True)
class Service:
    """The status of an arm's service, by the serving plane.

    Args:
        refused: this pass tried to start it and was refused; `reason` says why.
    """

    deployed: bool
    ready: bool
    reason: str
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Observation:
    """The observations of a pass before it decides about one rollout.

    Args:
        challenger: status of this rollout's service.
        judgement: verdict on this rollout's traffic; None if there is none.
        champion_is_provisional: some rollout's promotion to the present champion is unconfirmed.
        last_confirmed: last confirmed arm other than this rollout's; None if there is none.
        champion_deployed: the champion's service exists, or there is no champion. It is looked up
            in phase "deploying"; in later phases it is True.
        stopped: gateway → why it no longer asks this rollout's version, by its bundle's decisions.
    """

    routes: Routes
    challenger: Service
    judgement: Judgement | None
    champion_is_provisional: bool
    last_confirmed: Arm | None
    champion_deployed: bool = True
    stopped: Mapping[str, str] = field(default_factory=dict)


_CHAMPION_FIRST = "the champion's service is missing and is started first"


def next_step(
    state: RolloutState, observation: Observation, policy: RolloutPolicy, now: Now
) -> Move:
    """The next step of a rollout."""
    back = _stopped_by_gateways(state, observation)
    move = back or _planned(state, observation, policy, now)
    why = reason_to_wait(state, observation.routes, policy, now.wall_ms)
    if why and not isinstance(move, RollBack | Supersede | Hold):
        return Hold(why)
    return move


def _stopped_by_gateways(state: RolloutState, observation: Observation) -> RollBack | None:
    """The rollback of a version that gateways had to stop because it raised far more alerts than
    planned, if another arm can answer in its place; else None."""
    in_place = state.phase == "canary" or (
        state.phase == "promoted"
        and observation.routes.champion == state.challenger
        and observation.routes.previous is not None
    )
    if not observation.stopped or not in_place:
        return None
    reasons = "; ".join(
        f"{gateway}: it {why}" for gateway, why in sorted(observation.stopped.items())
    )
    return _back(
        state,
        observation,
        f"stopped by gateways: {reasons}",
        {"stopped": dict(observation.stopped)},
    )


def _planned(
    state: RolloutState, observation: Observation, policy: RolloutPolicy, now: Now
) -> Move:
    match state.phase:
        case "deploying":
            return _deploying(state, observation, policy, now)
        case "shadow":
            return _shadow(state, observation, policy, now)
        case "awaiting_approval":
            return _awaiting_approval(state, observation, policy, now)
        case "canary":
            return _canary(state, observation, policy, now)
        case "promoted":
            return _promoted(state, observation, policy, now)
        case "confirmed" | "superseded" | "rolled_back":
            return Hold(f"finished: {state.phase}")


def reconciled_services(
    routes: Routes,
    states: Iterable[RolloutState],
    deployed: Iterable[str],
    gateways: Iterable[GatewayLease],
) -> tuple[Deploy | Retire | Hold, ...]:
    """The services to start because the routes need them, and the services to stop because nothing
    needs them.

    A service is retired only when no living gateway applies an older generation of the routes.
    Stops come first, because they free capacity for starts.
    """
    deployed = frozenset(deployed)
    missing = [a for a in (*routes.arms, *routes.starting) if a.service not in deployed]
    starts = [Deploy(a, f"generation {routes.generation} lists it") for a in _distinct(missing)]
    ramping = {s.challenger.service for s in states if s.ramping}
    spare = sorted(
        name
        for name in deployed - routes.services - ramping
        if (parsed := ServiceName.parse(name)) and parsed.is_of(routes.model)
    )
    old = [g for g in gateways if g.generation is None or g.generation < routes.generation]
    if old and spare:
        names = ", ".join(sorted(g.gateway for g in old))
        hold = f"{', '.join(spare)}: waits for {names} to apply generation {routes.generation}"
        return (Hold(hold), *starts)
    why = f"generation {routes.generation} does not list it"
    return (*(Retire(name, why) for name in spare), *starts)


def canary_step(policy: RolloutPolicy, percent: float) -> CanaryStep:
    """The canary step with this share. If model.yaml no longer has it, the step with the next
    larger share."""
    return next((c for c in policy.canary if c.percent >= percent), policy.canary[-1])


def is_last_step(policy: RolloutPolicy, percent: float) -> bool:
    """Whether no canary step has a larger share of the customers."""
    return percent >= policy.canary[-1].percent


def confirmation_due_ms(state: RolloutState, policy: RolloutPolicy) -> int:
    """Event time at which a promotion may be confirmed."""
    return state.since_event_ms + policy.confirm_after_days * DAY_MS


def rolled_back_routes(state: RolloutState, observation: Observation) -> Routes | None:
    """The routes without this rollout's version; None if they never had it."""
    routes = observation.routes
    if state.phase == "promoted":
        if routes.champion != state.challenger or routes.previous is None:
            return None
        spare = (
            observation.last_confirmed if observation.last_confirmed != routes.previous else None
        )
        owner = state.displaced if routes.challenger is None else routes.rollout_id
        return following(routes, champion=routes.previous, previous=spare, rollout_id=owner)
    if routes.challenger != state.challenger:
        return None
    return following(
        routes,
        challenger=None,
        previous=routes.previous if observation.champion_is_provisional else None,
        rollout_id=state.displaced,
        phase="steady",
        challenger_percent=0.0,
    )


def _deploying(
    state: RolloutState, observation: Observation, policy: RolloutPolicy, now: Now
) -> Move:
    service = observation.challenger
    waited_ms = waited_time(state, policy, now).wall_ms
    if not service.ready and waited_ms >= policy.deploy_wall_deadline_s * 1000:
        return RollBack(None, f"not ready in time: {_unready(state, observation)}")
    if service.refused:
        return Hold(f"{state.challenger.service} can't be started: {service.reason}")
    if not service.deployed and not observation.champion_deployed:
        # The champion, which answers the customers, gets the room first.
        return Hold(_CHAMPION_FIRST)
    if not service.deployed:
        return Deploy(state.challenger, "the rollout was opened")
    if not service.ready:
        return Hold(f"{state.challenger.service} is not ready: {service.reason}")
    if state.emergency:
        evidence = _validated(state) | {"emergency": True, "opened_by": state.opened_by}
        reason = f"emergency: promoted by {state.opened_by} alone, to be confirmed by another"
        return Promote(promoted_routes(state, observation.routes), reason, evidence)
    if not state.bootstrap:
        reason = f"{state.challenger.service} is ready"
        return Advance("shadow", None, shadow_routes(state, observation.routes), reason)
    evidence = _validated(state) | {"bootstrap": True}
    if not _needs_approval(state, policy):
        return Promote(promoted_routes(state, observation.routes), "the first version", evidence)
    return AskApproval("the first version is ready; there is no champion to compare with", evidence)


def _needs_approval(state: RolloutState, policy: RolloutPolicy) -> bool:
    """Whether model.yaml asks for an approval now, or asked for one when the rollout was opened;
    either is enough."""
    return policy.approval == "required" or state.needs_approval


def _unready(state: RolloutState, observation: Observation) -> str:
    """Why the service is not ready: as this pass sees it, or by an earlier refusal."""
    service = observation.challenger
    if service.deployed or service.refused:
        return service.reason
    if state.refused is not None:
        return state.refused
    return service.reason if observation.champion_deployed else _CHAMPION_FIRST


def _shadow(state: RolloutState, observation: Observation, policy: RolloutPolicy, now: Now) -> Move:
    held = _unless_shown(state, observation, policy, now, policy.shadow)
    if held is not None:
        return held
    judgement = _judgement_of(observation)
    evidence = _validated(state) | judgement.evidence
    if _needs_approval(state, policy):
        return AskApproval(f"shadow: {judgement.reason}", evidence)
    return _canary_step(state, observation, policy, 0, f"shadow: {judgement.reason}", evidence)


def _awaiting_approval(
    state: RolloutState, observation: Observation, policy: RolloutPolicy, now: Now
) -> Move:
    judgement = observation.judgement
    if judgement is not None and judgement.verdict == "UNHEALTHY":
        return _back(state, observation, judgement.reason, judgement.evidence)
    answer = state.answer
    if answer is not None and answer.answer == "reject":
        return _back(state, observation, f"rejected by {answer.approver}: {answer.reason}", {})
    deadline_h = policy.approval_deadline_h
    if answer is not None:
        answered = Now(answer.event_ms, answer.wall_ms)
        if late := expired(waited_time(state, policy, answered), deadline_h, deadline_h * HOUR_S):
            return _back(
                state, observation, f"{answer.approver} answered too late, after {late}", {}
            )
        reason = f"approved by {answer.approver}: {answer.reason}"
        if state.bootstrap:
            return Promote(promoted_routes(state, observation.routes), reason)
        return _canary_step(state, observation, policy, 0, reason, {})
    if late := expired(waited_time(state, policy, now), deadline_h, deadline_h * HOUR_S):
        return _back(state, observation, f"nobody answered within {late}", {})
    return Hold(f"the rollout waits for an approval of evidence {state.asked_digest}")


def _canary(state: RolloutState, observation: Observation, policy: RolloutPolicy, now: Now) -> Move:
    here = canary_step(policy, state.percent)
    held = _unless_shown(state, observation, policy, now, here)
    if held is not None:
        return held
    judgement = _judgement_of(observation)
    reason = f"canary {state.percent:g} %: {judgement.reason}"
    evidence = _identity(state) | judgement.evidence
    if not is_last_step(policy, state.percent):
        return _canary_step(state, observation, policy, (state.step or 0) + 1, reason, evidence)
    return Promote(promoted_routes(state, observation.routes), reason, evidence)


def _promoted(
    state: RolloutState, observation: Observation, policy: RolloutPolicy, now: Now
) -> Move:
    routes, judgement = observation.routes, observation.judgement
    if routes.champion != state.challenger:
        if observation.champion_is_provisional:
            return Hold("a later champion has replaced it, and is provisional itself")
        return Supersede("a later champion is confirmed")
    if undone := _undone(state, observation, now):
        return undone
    if judgement is not None and judgement.verdict == "UNHEALTHY":
        if routes.previous is None:
            return Hold(f"there is no predecessor to go back to: {judgement.reason}")
        if routes.challenger is not None:
            # The load of the challenger may be the cause: judge it first, then the champion.
            first = routes.challenger.version
            return Hold(
                f"the champion is judged after version {first} has ramped: {judgement.reason}"
            )
        return _back(state, observation, judgement.reason, judgement.evidence)
    due_ms = confirmation_due_ms(state, policy)
    if now.event_ms < due_ms:
        return Hold(f"provisional until event time {text_of_any(due_ms, utc_minute_text)}")
    if state.emergency and state.answer is None:
        return Hold("the emergency promotion waits for a second person to confirm it")
    if judgement is None or judgement.verdict == "INCONCLUSIVE":
        return Hold("it waits for a complete log" if judgement is None else judgement.reason)
    free = routes.challenger is None
    reason = f"{policy.confirm_after_days} days as champion: {judgement.reason}"
    confirmed = following(routes, previous=None) if free and routes.previous is not None else None
    return Confirm(confirmed, reason, _identity(state) | judgement.evidence)


def _undone(state: RolloutState, observation: Observation, now: Now) -> RollBack | Hold | None:
    """The rollback of an emergency promotion that a second person rejected, or that nobody
    confirmed in time, whatever else is ramping; a hold if there is no predecessor; None if nothing
    is to be undone."""
    if not state.emergency:
        return None
    answer = state.answer
    if answer is not None and answer.answer == "reject":
        reason = f"rejected by {answer.approver}: {answer.reason}"
    elif answer is None and not in_time_to_confirm(state, now.wall_ms):
        reason = f"nobody confirmed the emergency promotion within {EMERGENCY_CONFIRM_H} h"
    else:
        return None
    if observation.routes.previous is None:
        return Hold(f"{reason}, but there is no predecessor to go back to")
    return _back(state, observation, reason, {})


def _unless_shown(
    state: RolloutState,
    observation: Observation,
    policy: RolloutPolicy,
    now: Now,
    step: ShadowStep | CanaryStep,
) -> Move | None:
    """The move of a step that does not lead forward; None if it is healthy and has lasted."""
    judgement, waited = _judgement_of(observation), waited_time(state, policy, now)
    if judgement.verdict == "UNHEALTHY":
        return _back(state, observation, judgement.reason, judgement.evidence)
    is_healthy, least_h = judgement.verdict == "HEALTHY", step.minimum_h
    if is_healthy and (least_h is None or waited.event_ms >= least_h * HOUR_MS):
        return None
    if late := expired(waited, step.deadline_h, policy.step_wall_deadline_s):
        found = f"healthy before its minimum_h ({least_h:g})" if is_healthy else "inconclusive"
        reason = f"{found} at its deadline ({late}): {judgement.reason}"
        return _back(state, observation, reason, judgement.evidence)
    if is_healthy and least_h is not None:
        ends_ms = now.event_ms - waited.event_ms + round(least_h * HOUR_MS)
        ends = text_of_any(ends_ms, utc_minute_text)
        return Hold(f"healthy, and lasts until event time {ends} at least: {judgement.reason}")
    return Hold(judgement.reason)


def _judgement_of(observation: Observation) -> Judgement:
    if observation.judgement is not None:
        return observation.judgement
    return Judgement("INCONCLUSIVE", ("nothing was read from the log",), {})


def _back(
    state: RolloutState, observation: Observation, reason: str, evidence: Evidence
) -> RollBack:
    full = _identity(state) | evidence if evidence else {}
    return RollBack(rolled_back_routes(state, observation), reason, full)


def _identity(state: RolloutState) -> Evidence:
    return {
        "model": state.model,
        "rollout_id": state.rollout_id,
        "version": state.challenger.version,
        "bundle": state.challenger.bundle,
        "author": state.author,
        "alert_band": [state.alert_low, state.alert_high],
    }


def _validated(state: RolloutState) -> Evidence:
    """The evidence on a version from before it met traffic; an approval is bound to this too."""
    found = _identity(state)
    found["validation"] = state.validation
    if state.plan is not None:
        found["plan"] = msgspec.to_builtins(state.plan)
    return found


def _canary_step(
    state: RolloutState,
    observation: Observation,
    policy: RolloutPolicy,
    step: int,
    reason: str,
    evidence: Evidence,
) -> Advance:
    percent = next(c.percent for c in policy.canary if c.percent > state.percent)
    routes = following(observation.routes, phase="canary", challenger_percent=percent)
    return Advance("canary", step, routes, reason, evidence)


def _distinct(arms: Iterable[Arm]) -> list[Arm]:
    return list({arm.service: arm for arm in arms}.values())
