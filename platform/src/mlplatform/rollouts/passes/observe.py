"""What a pass sees before it decides: services, and a verdict on the traffic in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mlplatform.decisions.records.port import DecisionLog, Span
from mlplatform.decisions.records.record import Kind
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.routes import Routes
from mlplatform.rollouts.journal.state import RolloutState
from mlplatform.rollouts.passes.plan import DAY_MS, Observation, Service, confirmation_due_ms
from mlplatform.rollouts.passes.ports import Ports
from mlplatform.rollouts.passes.raw_callers import unless_behind
from mlplatform.rollouts.serving.plane import ServingPlane
from mlplatform.rollouts.verdicts.judgement import Judgement, Limits, Sources, judge
from mlplatform.rollouts.verdicts.outcomes import outcome_gates, outcomes
from mlplatform.rollouts.verdicts.verdict import Gate
from mlplatform.rollouts.verdicts.window import (
    Traffic,
    canary_traffic,
    champion_traffic,
    shadow_traffic,
)
from mlplatform.runtime.errors import NotFound

if TYPE_CHECKING:
    import pyarrow as pa


def observe(
    definition: ModelDefinition,
    ports: Ports,
    state: RolloutState,
    routes: Routes,
    refusal: str | None = None,
) -> Observation:
    """Everything that the next step of this rollout depends on.

    Args:
        refusal: why this pass could not start the challenger's service, where it has tried to.
    """
    states = ports.rollouts.active(definition.name, finished=True)
    confirmed = [
        s.challenger for s in states if s.phase == "confirmed" and s.rollout_id != state.rollout_id
    ]
    provisional = any(s.phase == "promoted" and s.challenger == routes.champion for s in states)
    return Observation(
        routes=routes,
        challenger=_service(ports.plane, state.challenger.service, refusal),
        judgement=_judgement(definition, ports, state, routes),
        champion_is_provisional=provisional,
        last_confirmed=confirmed[-1] if confirmed else None,
        champion_deployed=(
            state.phase != "deploying"  # nothing else asks, and a cluster lists its services for it
            or routes.champion is None
            or routes.champion.service in ports.plane.names()
        ),
    )


def _judgement(
    definition: ModelDefinition, ports: Ports, state: RolloutState, routes: Routes
) -> Judgement | None:
    """The verdict on the traffic of the present generation; None where there is none to judge."""
    role = _role(state, routes)
    if role is None:
        return None
    # watermarks first: whatever they promise is in the log when it is read
    watermarks = tuple(ports.log.watermarks())
    gateways = tuple(ports.passes.gateways(definition.name))
    table = _records(ports.log, definition.name, routes.generation)
    traffic = _traffic(role, table, state, routes)
    slow = _slow_gates(definition, ports, state) if role == "champion" else []
    sources = Sources(watermarks, gateways)
    judgement = judge(traffic, limits_of(definition, state), sources, slow)
    return unless_behind(judgement, ports, routes)


Role = Literal["shadow", "canary", "champion"]


def _role(state: RolloutState, routes: Routes) -> Role | None:
    if state.phase == "promoted":
        return "champion" if routes.champion == state.challenger else None
    if routes.challenger != state.challenger:
        return None
    return "canary" if routes.phase == "canary" else "shadow"


def _traffic(role: Role, table: pa.Table, state: RolloutState, routes: Routes) -> Traffic:
    version, generation = state.challenger.version, routes.generation
    match role:
        case "shadow":
            return shadow_traffic(table, generation=generation, version=version)
        case "canary":
            return canary_traffic(table, generation=generation)
        case "champion":
            return champion_traffic(table, generation=generation, version=version)


def _records(log: DecisionLog, model: str, generation: int) -> pa.Table:
    import pyarrow as pa

    kinds: tuple[Kind, ...] = ("decision", "shadow", "inference")
    records = log.read(Span(model=model, kinds=kinds, generation=generation))
    voids = log.read(Span(model=model, kinds=("void",)))
    return pa.concat_tables([_of_rollouts(records), voids])


def _of_rollouts(records: pa.Table) -> pa.Table:
    """Inferences whose caller named the unit count as the decisions that they are; others not."""
    import numpy as np
    import pyarrow as pa

    kinds = records["kind"].to_numpy(zero_copy_only=False)
    raw = kinds == "inference"
    position = records.schema.get_field_index("kind")
    as_decisions = pa.array(np.where(raw, "decision", kinds).tolist(), pa.string())
    counted = records.set_column(position, records.schema.field(position), as_decisions)
    return counted.filter(~raw | records["unit"].is_valid().to_numpy(zero_copy_only=False))


def _slow_gates(definition: ModelDefinition, ports: Ports, state: RolloutState) -> list[Gate]:
    """The last canary step judged by its labels, once the promotion could be confirmed."""
    import pyarrow.compute as pc

    generation, now = state.canary_generation, ports.now()
    if generation is None or now.event_ms < confirmation_due_ms(state, definition.rollout):
        return []
    decisions = _records(ports.log, definition.name, generation)
    first_ms = pc.min(decisions.column("event_ms")).as_py()
    labels = ports.log.read(Span(model=definition.name, kinds=("label",), from_ms=first_ms))
    seen = outcomes(
        decisions,
        labels,
        generation=generation,
        maturity_ms=definition.label.maturity_days * DAY_MS,
        now_event_ms=now.event_ms,
    )
    return outcome_gates(seen, error_share=definition.rollout.false_alarm_share)


def limits_of(definition: ModelDefinition, state: RolloutState) -> Limits:
    """What this rollout's version is held to in its present phase."""
    policy = definition.rollout
    canary = policy.canary[state.step or 0] if state.phase == "canary" else None
    units: int | None = None
    if state.phase in ("shadow", "canary"):
        units = policy.shadow.minimum_units if canary is None else canary.minimum_units
    return Limits(
        error_share=policy.false_alarm_share,
        failure_share=policy.failure_share_limit,
        guardrail_failures=policy.guardrail_minimum_failures,
        flip_share=definition.gates.decision_flip_share,
        alert_low=state.alert_low,
        alert_high=state.alert_high,
        percent=None if canary is None else canary.percent,
        units=units,
        requests=policy.shadow.minimum_requests if canary is None else 0,
    )


def _service(plane: ServingPlane, name: str, refusal: str | None) -> Service:
    if refusal is not None:
        return Service(deployed=False, ready=False, reason=refusal, refused=True)
    try:
        status = plane.status(name)
    except NotFound:
        return Service(deployed=False, ready=False, reason="not deployed")
    return Service(deployed=True, ready=status.ready, reason=status.reason)
