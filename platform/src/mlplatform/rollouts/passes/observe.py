"""The observations before a pass decides: services, and the verdict on the traffic in the log."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from mlplatform.decisions.records.port import Watermark
from mlplatform.learning.validation.report_entries import ValidationReport, replayed_of
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.inputs import segment_sources
from mlplatform.model.policies.rollout import CanaryStep, RolloutPolicy, ShadowStep
from mlplatform.model.routes import Routes
from mlplatform.rollouts.cache.pair_cache import shadow_outcomes
from mlplatform.rollouts.journal.basis_evidence import Role
from mlplatform.rollouts.journal.state import RolloutState
from mlplatform.rollouts.passes.count_cache import count
from mlplatform.rollouts.passes.error_parts import (
    Phase,
    gate_errors,
    guardrail_error,
    outcome_errors,
    phase_of,
    segment_errors,
)
from mlplatform.rollouts.passes.next_step import (
    Observation,
    Service,
    canary_step,
    confirmation_due_ms,
    is_last_step,
)
from mlplatform.rollouts.passes.ports import Ports
from mlplatform.rollouts.passes.raw_callers import unrouted_reason
from mlplatform.rollouts.serving.plane import ServingPlane
from mlplatform.rollouts.verdicts.basis import Basis, OutcomeBasis, outcome_gates, verdict
from mlplatform.rollouts.verdicts.comparison import SegmentStep
from mlplatform.rollouts.verdicts.facts import Subject
from mlplatform.rollouts.verdicts.judgement import GateLimits, Judgement, Sources, StepPolicy
from mlplatform.rollouts.verdicts.speed import IMMATERIAL_SHARE
from mlplatform.rollouts.verdicts.verdict import ALIKE, Bound, Errors, Gate, Prediction
from mlplatform.runtime.canonical import NOT_JSON, digest
from mlplatform.runtime.code_version import code_version
from mlplatform.runtime.errors import NotFound
from mlplatform.runtime.storage.files import write_atomically
from mlplatform.runtime.units import DAY_MS, HOUR_MS, MINUTE_MS

SLOW_GATES_EVERY_MS: Final = HOUR_MS
"""Interval between two judgements by matured labels, in milliseconds of event time."""
OUTCOME_STEP_MS: Final = MINUTE_MS
"""Resolution in which ages of requests and delays of labels are counted: far fewer values than
single milliseconds."""
GATES_PER_SEGMENT = 2
SEGMENT_ALERTS = 30
"""Least requests with an alert of either version in a segment's own replay. With fewer, the replay
of all requests predicts better."""


def observe(
    definition: ModelDefinition,
    ports: Ports,
    state: RolloutState,
    routes: Routes,
    refusal: str | None = None,
) -> Observation:
    """Everything that the next step of this rollout depends on.

    Args:
        refusal: reason why this pass could not start the challenger's service; None if it started
            or the pass did not try.
    """
    states = ports.rollouts.active(definition.name, finished=True)
    confirmed = [
        s.challenger for s in states if s.phase == "confirmed" and s.rollout_id != state.rollout_id
    ]
    provisional = any(s.phase == "promoted" and s.challenger == routes.champion for s in states)
    service = state.challenger.service
    leases = ports.passes.gateways(definition.name)
    return Observation(
        routes=routes,
        challenger=service_status(ports.plane, service, refusal),
        judgement=_judgement(definition, ports, state, routes),
        champion_is_provisional=provisional,
        last_confirmed=confirmed[-1] if confirmed else None,
        champion_deployed=(
            state.phase != "deploying"  # only this phase needs it; a cluster must list its services
            or routes.champion is None
            or routes.champion.service in ports.plane.names()
        ),
        stopped={
            g.gateway: g.stopped[service]
            for g in leases
            # stops from before a person cleared them do not count
            if service in g.stopped and (g.generation or 0) >= routes.cleared
        },
    )


def _judgement(
    definition: ModelDefinition, ports: Ports, state: RolloutState, routes: Routes
) -> Judgement | None:
    """The verdict on the traffic of the present generation; None where there is none to judge."""
    role = _role(state, routes)
    if role is None:
        return None
    gateways = tuple(ports.passes.gateways(definition.name))
    subject = _subject(role, state, routes, definition)
    found = count(ports.counted, ports.log, definition.name, subject)
    asked, slow = _slow_gates(definition, ports, state, found.watermarks)
    basis = Basis(
        subject=subject,
        limits=limits_of(definition, state, routes, pods=_pods(definition, ports)),
        sources=Sources(found.watermarks, gateways),
        line_ms=found.line_ms,
        outcomes=asked,
        policy=definition.rollout,
        code=code_version(),
    )
    judgement = verdict(basis, found.seen, found.complete, slow)
    if judgement.verdict == "HEALTHY" and (problem := unrouted_reason(ports, routes)):
        behind = dataclasses.replace(basis, unrouted=problem)
        return verdict(behind, found.seen, found.complete, slow)
    return judgement


def _role(state: RolloutState, routes: Routes) -> Role | None:
    if state.phase == "promoted":
        return "champion" if routes.champion == state.challenger else None
    if routes.challenger != state.challenger:
        return None
    return "canary" if routes.phase == "canary" else "shadow"


def _subject(
    role: Role, state: RolloutState, routes: Routes, definition: ModelDefinition
) -> Subject:
    within_us = 1000 * waited_ms(definition)
    # a champion's guardrail needs only failures
    segments = (
        ()
        if role == "champion"
        else segment_sources(definition.rollout.segments, definition.inputs)
    )
    return Subject(
        routes.generation,
        role,
        state.challenger.version,
        within_us,
        segments=segments,
        scale=definition.decision.scale,
        by_decision=role == "shadow" and prediction_of(state.validation, routes).by_decision,
    )


def waited_ms(definition: ModelDefinition) -> float:
    """Milliseconds of a request's deadline for which a challenger is waited for."""
    chain = definition.chain
    return definition.deadline_ms * (1 - chain.reserve_share) * chain.step_share


class _SlowGates(msgspec.Struct, frozen=True):
    """The last judgement by matured labels, and the basis that it followed from."""

    asked: str
    basis: OutcomeBasis
    gates: list[Gate]


def _slow_gates(
    definition: ModelDefinition,
    ports: Ports,
    state: RolloutState,
    watermarks: Sequence[Watermark],
) -> tuple[OutcomeBasis | None, list[Gate]]:
    """The gates on matured labels of the shadow phase, with their basis.

    They are read in the last canary step, where only proven harm counts because not all labels have
    come, and once the promotion could be confirmed. They are computed once in a while of event
    time, and hold until the next time. Only new records of the log are read.
    """
    policy, now_ms = definition.rollout, ports.now().event_ms
    last_step = state.phase == "canary" and is_last_step(policy, state.percent)
    due = state.phase == "promoted" and now_ms >= confirmation_due_ms(state, policy)
    if state.shadow_generation is None or not (last_step or due):
        return None, []
    path = ports.counted / definition.name / f"outcomes-{state.rollout_id}.json"
    asked = digest([state.phase, msgspec.to_builtins(policy)])
    with contextlib.suppress(FileNotFoundError, *NOT_JSON):
        cached = msgspec.json.decode(path.read_bytes(), type=_SlowGates)
        if cached.asked == asked and 0 <= now_ms - cached.basis.now_event_ms < SLOW_GATES_EVERY_MS:
            return cached.basis, cached.gates
    marks = {mark.writer: mark.seq for mark in watermarks}
    basis = outcome_basis(definition, state, now_ms, marks, due=due)
    gates = outcome_gates(basis, shadow_outcomes(ports.counted, ports.log, definition.name, basis))
    write_atomically(path, msgspec.json.encode(_SlowGates(asked, basis, gates)))
    return basis, gates


def outcome_basis(
    definition: ModelDefinition,
    state: RolloutState,
    now_event_ms: int,
    marks: dict[str, int],
    *,
    due: bool,
) -> OutcomeBasis:
    """The basis of the gates on outcomes, for a rollout whose shadow phase has been judged."""
    policy = definition.rollout
    assert state.shadow_generation is not None
    return OutcomeBasis(
        generation=state.shadow_generation,
        version=state.challenger.version,
        maturity_ms=definition.label.maturity_days * DAY_MS,
        now_event_ms=now_event_ms,
        marks=marks,
        bound=Bound(*policy.by_labels),
        errors=outcome_errors(policy),
        capacity=definition.decision.alert_share,
        due=due,
        hides=definition.decision.hides_outcome,
        explores=definition.exploration is not None,
        task=definition.task,
        step_ms=OUTCOME_STEP_MS,
    )


def segment_steps(
    policy: RolloutPolicy, predicted: Prediction, of_segments: Mapping[str, Prediction],
    phase: Phase,
) -> tuple[SegmentStep, ...]:  # fmt: skip
    """The requirements of a step for each segment; the error of all segments is divided among
    them.

    Args:
        of_segments: name of a segment → prediction from the replay of its own requests; segments
            without enough requests are left out.
    """
    if (segments := policy.segments) is None:
        return ()
    errors = segment_errors(policy, phase)
    part = errors.stop / (GATES_PER_SEGMENT * len(segments.groups))
    overall = dataclasses.replace(predicted, alert_share=None)
    return tuple(
        SegmentStep(
            name=segment.name,
            stop=segments.stop,
            tolerance=segments.tolerance,
            errors=Errors(part, errors.missed),
            predicted=of_segments.get(segment.name, overall),
            holds=segment.required and phase == "shadow",
        )
        for segment in segments.groups
    )


def limits_of(
    definition: ModelDefinition, state: RolloutState, routes: Routes, *, pods: int = 1
) -> GateLimits:
    """The limits for this rollout's version in its present phase.

    Args:
        pods: number of the challenger's pods once it gets all of the traffic.
    """
    policy = definition.rollout
    match state.phase:
        case "canary":
            held_to = canary_step(policy, state.percent)
            step: ShadowStep | CanaryStep | None = msgspec.structs.replace(
                held_to, percent=state.percent
            )
        case "shadow" | "awaiting_approval":
            step = policy.shadow
        case _:
            step = None
    return step_limits(
        policy,
        step,
        prediction_of(state.validation, routes),
        pods=pods,
        of_segments=predicted_segments(state.validation, routes),
        immaterial_us=immaterial_us(definition),
    )


def immaterial_us(definition: ModelDefinition) -> float:
    """The latency increase in microseconds that does no harm."""
    return 1000 * IMMATERIAL_SHARE * definition.latency_slo_ms


def step_limits(
    policy: RolloutPolicy,
    declared: ShadowStep | CanaryStep | None,
    predicted: Prediction,
    *,
    pods: int = 1,
    of_segments: Mapping[str, Prediction] | None = None,
    immaterial_us: float = 0.0,
) -> GateLimits:
    """The limits for a version in a step of the ramp, or as a provisional champion
    (`declared` None)."""
    step = None
    if declared is not None:
        phase = phase_of(policy, declared)
        step = StepPolicy(
            stop=policy.stop,
            tolerance=declared.tolerance,
            errors=gate_errors(policy, phase),
            predicted=predicted,
            percent=declared.percent if isinstance(declared, CanaryStep) else None,
            units=declared.minimum_units,
            requests=declared.minimum_requests if isinstance(declared, ShadowStep) else 0,
            pods=pods,
            segments=segment_steps(policy, predicted, of_segments or {}, phase),
            immaterial_us=immaterial_us,
        )
    return GateLimits(
        error_share=guardrail_error(policy),
        failure_share=policy.failure_share_limit,
        guardrail_failures=policy.guardrail_minimum_failures,
        step=step,
    )


def prediction_of(validation: ValidationReport, routes: Routes) -> Prediction:
    """The prediction of validation for this pair of versions. If validation compared with another
    champion, or with none, the challenger is expected to raise as many alerts as this champion."""
    replayed, champion = replayed_of(validation), routes.champion
    if not replayed or not (requests := replayed["requests"]):
        return ALIKE
    met = champion is not None and validation.get("champion") == champion.bundle
    effects = replayed.get("design_effect"), replayed.get("flip_design_effect")
    if (flips := replayed.get("flips")) is not None:  # of classes
        known = Prediction(1.0, flips / requests, None, True, requests, *effects)
        return known if met else ALIKE
    own, other = replayed["alerts"], replayed["champion_alerts"]
    both = replayed["both_alerts"]
    if not own:
        return ALIKE
    either, share = own + other - both, own / requests
    if not met or not other or not either:
        return dataclasses.replace(ALIKE, alert_share=share)
    alone = (either - both) / either
    known = Prediction(own / other, alone, share, True, requests, *effects)
    if (differing := replayed.get("differing")) is None:  # a report of an earlier release
        return known
    return dataclasses.replace(known, disagreement=differing / either, alone=alone)


def predicted_segments(validation: ValidationReport, routes: Routes) -> dict[str, Prediction]:
    """Predictions by segment, of segments whose replay was large enough; empty if validation
    compared with another champion."""
    whole = prediction_of(validation, routes)
    replayed = replayed_of(validation)
    of_segments = (replayed and replayed.get("segments")) or {}
    if not whole.replayed:
        return {}
    found = {
        name: prediction_of({**validation, "replayed": counts}, routes)
        for name, counts in of_segments.items()
        if counts["alerts"] + counts["champion_alerts"] - counts["both_alerts"] >= SEGMENT_ALERTS
    }
    return {name: prediction for name, prediction in found.items() if prediction.replayed}


def _pods(definition: ModelDefinition, ports: Ports) -> int:
    scaling = definition.serving.scaling
    if ports.scales and scaling is not None:
        return scaling.maximum_replicas
    return ports.replicas or 1


def service_status(plane: ServingPlane, name: str, refusal: str | None = None) -> Service:
    """The status of a service; `refusal` says why this pass could not start it."""
    if refusal is not None:
        return Service(deployed=False, ready=False, reason=refusal, refused=True)
    try:
        status = plane.status(name)
    except NotFound:
        return Service(deployed=False, ready=False, reason="not deployed")
    return Service(deployed=True, ready=status.ready, reason=status.reason)
