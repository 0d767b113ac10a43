"""One pass over a model's rollouts: read the journal, take the steps that are due, and exit.

A pass may die between any two writes: each is idempotent or refused a second time, and the next
pass reads the journal and goes on from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, assert_never

from mlplatform.model.definition import ModelDefinition
from mlplatform.model.routes import Routes
from mlplatform.rollouts.journal.evidence import Evidence
from mlplatform.rollouts.journal.journal import Fence
from mlplatform.rollouts.journal.state import RolloutState
from mlplatform.rollouts.journal.transitions import (
    ApprovalAsked,
    CanaryStepped,
    Confirmed,
    DeployRefused,
    Promoted,
    RolledBack,
    ShadowStarted,
    Superseded,
    Transition,
)
from mlplatform.rollouts.passes.lease import hold_lease
from mlplatform.rollouts.passes.next_step import (
    Advance,
    AskApproval,
    Confirm,
    Deploy,
    Hold,
    Move,
    Promote,
    RollBack,
    Supersede,
    next_step,
)
from mlplatform.rollouts.passes.observe import observe
from mlplatform.rollouts.passes.ports import Ports
from mlplatform.rollouts.passes.raw_callers import follow_routes
from mlplatform.rollouts.passes.services import (
    deploy,
    reconcile_services,
    refusal_of,
    service_changes,
)
from mlplatform.rollouts.passes.step_text import step_text
from mlplatform.rollouts.passes.wait_reasons import Now
from mlplatform.runtime.errors import Busy, Refused, StaleFence, Unavailable

MAX_STEPS = 20
LEASE_TTL_S = 20.0
CHAMPION_ALIAS = "champion"


@dataclass(frozen=True, slots=True)
class PassReport:
    """The steps that a pass took, and what it waits for.

    Args:
        ran: False if another pass holds the lease.
        steps: texts about the steps that were done; in a dry run, about the step that would be
            next.
        waits: texts that say why nothing more was done.
        arms: arm → counts by which the present step was judged; empty if nothing was judged.
        judged_steps: judgements of the pass, in order.
    """

    model: str
    ran: bool
    dry_run: bool
    generation: int
    steps: tuple[str, ...]
    waits: tuple[str, ...]
    arms: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    judged_steps: tuple[JudgedStep, ...] = ()


@dataclass(frozen=True, slots=True)
class JudgedStep:
    """An interim analysis of a rollout: the state that was judged, and the evidence of the
    judgement."""

    state: RolloutState
    event_ms: int
    evidence: Evidence


@dataclass(slots=True)
class _PassNotes:
    arms: dict[str, dict[str, int]] = field(default_factory=dict)
    judged_steps: list[JudgedStep] = field(default_factory=list)


def run_pass(
    definition: ModelDefinition,
    ports: Ports,
    *,
    holder: str,
    dry_run: bool = False,
    ttl_s: float = LEASE_TTL_S,
) -> PassReport:
    """Take every step that is due for a model, under its lease, and report what the pass waits for.

    The pass also waits for a service that may not be started; the rest of the pass goes on.

    Args:
        holder: name of the pass. A pass with the same name takes over its own lease at once.
        dry_run: only report which step would be next.

    Raises:
        Unavailable, Corrupt: a system that a step needs does not answer, or its data is damaged.
            Nothing is half-done; run a pass again later.
    """
    if dry_run:
        return _dry_run(definition, ports)
    fence = ports.passes.acquire(definition.name, holder, ttl_s)
    if fence is None:
        return _report(definition, ports, [], ["another pass holds the lease"], ran=False)
    steps: list[str] = []
    notes = _PassNotes()
    with hold_lease(ports.passes, fence, ttl_s):
        try:
            waits = _steps(definition, ports, fence, steps, notes)
            waits += follow_routes(ports, definition.name)
            waits += reconcile_services(definition, ports, steps)
            waits += _project(definition, ports)
        except StaleFence as stale:
            waits = [str(stale)]
    done = _report(definition, ports, steps, waits)
    return dataclasses.replace(done, arms=notes.arms, judged_steps=tuple(notes.judged_steps))


def transition_of(
    step: Advance | AskApproval | Promote | Confirm | Supersede | RollBack,
    state: RolloutState,
    routes: Routes,
    *,
    now: Now,
    actor: str,
) -> Transition:
    """The transition that records a step taken from these routes."""
    facts: dict[str, Any] = {
        "rollout_id": state.rollout_id,
        "model": state.model,
        "event_ms": now.event_ms,
        "wall_ms": now.wall_ms,
        "actor": actor,
        "reason": step.reason,
        "evidence": {} if isinstance(step, Supersede) else step.evidence,
    }
    match step:
        case Advance(to="shadow"):
            return ShadowStarted(**facts, displaced=routes.rollout_id)
        case Advance():
            percent = step.routes.challenger_percent
            return CanaryStepped(**facts, step=step.step or 0, percent=percent)
        case AskApproval():
            return ApprovalAsked(**facts)
        case Promote():
            return Promoted(**facts, predecessor=routes.champion)
        case Confirm():
            return Confirmed(**facts)
        case Supersede():
            return Superseded(**facts)
        case RollBack():
            return RolledBack(**facts)
        case _:
            assert_never(step)


def _steps(
    definition: ModelDefinition,
    ports: Ports,
    fence: Fence,
    steps: list[str],
    notes: _PassNotes,
) -> list[str]:
    refusals: dict[str, str] = {}
    for _ in range(MAX_STEPS):
        notes.arms.clear()
        due, waits = _due(definition, ports, notes, refusals)
        if due is None:
            return waits
        state, step, routes = due
        refusal = _carry_out(definition, ports, fence, state, step, routes)
        if refusal is not None:
            refusals[state.rollout_id] = refusal
            continue
        steps.append(f"{state.rollout_id}: {step_text(step)}")
    return [f"{MAX_STEPS} steps in one pass are enough"]


def _due(
    definition: ModelDefinition,
    ports: Ports,
    notes: _PassNotes,
    refusals: Mapping[str, str],
) -> tuple[tuple[RolloutState, Move, Routes] | None, list[str]]:
    """The first rollout with a step to take, or the reason why each rollout waits.

    Args:
        refusals: id of a rollout → why this pass could not start its service.
    """
    waits = []
    for state in ports.rollouts.active(definition.name):
        routes = ports.rollouts.routes(definition.name)
        found = observe(definition, ports, state, routes, refusals.get(state.rollout_id))
        if found.judgement is not None:
            judged = found.judgement.evidence
            notes.arms.update(judged.get("arms", {}))
            notes.judged_steps.append(JudgedStep(state, ports.now().event_ms, judged))
        step = next_step(state, found, definition.rollout, ports.now())
        if not isinstance(step, Hold):
            return (state, step, routes), []
        waits.append(f"{state.rollout_id}: {step.reason}")
    return None, waits


def _carry_out(
    definition: ModelDefinition,
    ports: Ports,
    fence: Fence,
    state: RolloutState,
    step: Move,
    routes: Routes,
) -> str | None:
    """Take a step. Returns why it could not be taken, or None."""
    match step:
        case Deploy():
            refusal = refusal_of(partial(deploy, definition, ports, step.arm))
            if refusal is not None and refusal != state.refused:
                ports.rollouts.commit(_deploy_refused(state, ports.now(), fence, refusal), fence)
            return refusal
        case Hold():
            pass
        case Advance() | Promote() | Confirm() | RollBack() | AskApproval() | Supersede():
            transition = transition_of(step, state, routes, now=ports.now(), actor=fence.holder)
            following = None if isinstance(step, AskApproval | Supersede) else step.routes
            ports.rollouts.commit(transition, fence, following)
        case _:
            assert_never(step)
    return None


def _deploy_refused(state: RolloutState, now: Now, fence: Fence, refusal: str) -> DeployRefused:
    return DeployRefused(
        rollout_id=state.rollout_id,
        model=state.model,
        event_ms=now.event_ms,
        wall_ms=now.wall_ms,
        actor=fence.holder,
        reason=refusal,
    )


def _project(definition: ModelDefinition, ports: Ports) -> list[str]:
    """Bring alias, approvals and anchor to what the journal says. Returns what did not answer; a
    later pass tries it again."""
    projections = (_project_alias, _project_approvals, _anchor)
    refusals = [_attempt(projection, definition, ports) for projection in projections]
    return [refusal for refusal in refusals if refusal is not None]


def _attempt(
    projection: Callable[[ModelDefinition, Ports], None], definition: ModelDefinition, ports: Ports
) -> str | None:
    try:
        projection(definition, ports)
    except (Unavailable, Busy, Refused) as error:
        return f"for a later pass: {error}"
    return None


def _project_alias(definition: ModelDefinition, ports: Ports) -> None:
    champion = ports.rollouts.routes(definition.name).champion
    if champion is not None:
        ports.versions.set_alias(definition.name, CHAMPION_ALIAS, champion.version)


def _project_approvals(definition: ModelDefinition, ports: Ports) -> None:
    for state in ports.rollouts.active(definition.name):
        if not state.awaits_answer or state.answer is not None:
            continue
        for fact in ports.rollouts.read(state.rollout_id):
            digest = fact.evidence_digest
            if isinstance(fact, ApprovalAsked | Promoted) and digest == state.asked_digest:
                ports.approvals.ensure_requested(state.rollout_id, fact.evidence, digest)


def _anchor(definition: ModelDefinition, ports: Ports) -> None:
    ports.anchors.anchor(ports.log.seal())


def _dry_run(definition: ModelDefinition, ports: Ports) -> PassReport:
    due, waits = _due(definition, ports, _PassNotes(), {})
    due_services = service_changes(definition, ports)
    steps = [] if due is None else [f"{due[0].rollout_id}: {step_text(due[1])}"]
    steps += [step_text(step) for step in due_services if not isinstance(step, Hold)]
    waits += [step.reason for step in due_services if isinstance(step, Hold)]
    return dataclasses.replace(_report(definition, ports, steps, waits), dry_run=True)


def _report(
    definition: ModelDefinition,
    ports: Ports,
    steps: list[str],
    waits: list[str],
    *,
    ran: bool = True,
) -> PassReport:
    generation = ports.rollouts.routes(definition.name).generation
    return PassReport(
        definition.name,
        ran=ran,
        dry_run=False,
        generation=generation,
        steps=tuple(steps),
        waits=tuple(waits),
    )
