"""The part of a pass that is about an A/B/n test: observe, decide, and write what follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, assert_never

from mlplatform.model.definition import ModelDefinition
from mlplatform.model.routes import Routes, Variant
from mlplatform.rollouts.journal.controls import (
    VariantFact,
    VariantRemoved,
    VariantsAnswering,
    VariantsEnded,
    VariantTestState,
    controlled_routes,
    fold_controls,
)
from mlplatform.rollouts.journal.journal import Fence
from mlplatform.rollouts.journal.variants import MOST_VARIANTS
from mlplatform.rollouts.passes.count_cache import count
from mlplatform.rollouts.passes.execute import LEASE_TTL_S
from mlplatform.rollouts.passes.lease import hold_lease
from mlplatform.rollouts.passes.next_step import Hold
from mlplatform.rollouts.passes.observe import service_status, step_limits, waited_ms
from mlplatform.rollouts.passes.ports import Ports
from mlplatform.rollouts.passes.wait_reasons import Now
from mlplatform.rollouts.variants.next_step import (
    Begin,
    End,
    Remove,
    VariantObservation,
    VariantStep,
    next_step,
)
from mlplatform.rollouts.verdicts.facts import VariantSubject
from mlplatform.rollouts.verdicts.judgement import Judgement, Sources, judge
from mlplatform.rollouts.verdicts.verdict import ALIKE
from mlplatform.runtime.errors import StaleFence

MOST_STEPS: Final = MOST_VARIANTS + 2
"""Most steps of one pass: to begin, to take every variant out, and to end."""


@dataclass(frozen=True, slots=True)
class VariantReport:
    """The steps of a test that a pass took, and what it waits for, as texts."""

    steps: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()


def run_test(
    definition: ModelDefinition, ports: Ports, *, holder: str, dry_run: bool = False
) -> VariantReport:
    """Take every step that is due for a model's test. It comes before the pass over rollouts, which
    starts and retires the services of variants.

    Args:
        holder: name of the pass, as in `run_pass`.
        dry_run: only report which step would be next.

    Raises:
        Unavailable, Corrupt: as in `run_pass`.
    """
    model = definition.name
    if ports.rollouts.routes(model).test is None:
        return VariantReport()
    if dry_run:
        test = _running(ports, model)
        return VariantReport() if test is None else _report(test, _due(definition, ports, test))
    fence = ports.passes.acquire(model, holder, LEASE_TTL_S)
    if fence is None:
        return VariantReport(waits=("another pass holds the lease",))
    with hold_lease(ports.passes, fence, LEASE_TTL_S):
        try:
            return _steps(definition, ports, fence)
        except StaleFence as stale:
            return VariantReport(waits=(str(stale),))


def _steps(definition: ModelDefinition, ports: Ports, fence: Fence) -> VariantReport:
    done: list[str] = []
    for _ in range(MOST_STEPS):
        test = _running(ports, definition.name)
        if test is None:
            return VariantReport(tuple(done))
        step = _due(definition, ports, test)
        report = _report(test, step)
        if isinstance(step, Hold):
            return VariantReport(tuple(done), report.waits)
        present = ports.rollouts.routes(definition.name)
        fact = fact_of(step, test, present, now=ports.now(), actor=fence.holder)
        ports.controls.control(fact, fence, controlled_routes(fact, present))
        done.extend(report.steps)
    return VariantReport(tuple(done), (f"{MOST_STEPS} steps in one pass are enough",))


def fact_of(
    step: Begin | Remove | End,
    test: VariantTestState,
    present: Routes,
    *,
    now: Now,
    actor: str,
) -> VariantFact:
    """The fact that records a step of a test, taken from these routes."""
    common: dict[str, Any] = {
        "model": test.started.model,
        "event_ms": now.event_ms,
        "wall_ms": now.wall_ms,
        "actor": actor,
        "reason": step.reason,
        "test_id": test.started.test_id,
    }
    match step:
        case Begin():
            return VariantsAnswering(**common, generation=present.generation + 1)
        case Remove():
            arm = step.variant.arm
            return VariantRemoved(
                **common, version=arm.version, service=arm.service, evidence=step.evidence
            )
        case End():
            return VariantsEnded(**common)
        case _:
            assert_never(step)


def _report(test: VariantTestState, step: VariantStep) -> VariantReport:
    test_id = test.started.test_id
    match step:
        case Hold():
            return VariantReport(waits=(f"{test_id}: {step.reason}",))
        case Begin():
            text = f"let the variants answer: {step.reason}"
        case Remove():
            text = f"take out version {step.variant.arm.version}: {step.reason}"
        case End():
            text = f"end the test: {step.reason}"
        case _:
            assert_never(step)
    return VariantReport(steps=(f"{test_id}: {text}",))


def _running(ports: Ports, model: str) -> VariantTestState | None:
    test = fold_controls(ports.controls.controls(model)).test
    return test if test is not None and test.is_running else None


def _due(definition: ModelDefinition, ports: Ports, test: VariantTestState) -> VariantStep:
    return next_step(test, _observed(definition, ports, test), definition.rollout, ports.now())


def _observed(
    definition: ModelDefinition, ports: Ports, test: VariantTestState
) -> VariantObservation:
    model, arms = definition.name, [variant.arm for variant in test.variants]
    emergency = [s.rollout_id for s in ports.rollouts.active(model) if s.emergency]
    if test.answering is None:
        return VariantObservation(
            services={arm.service: service_status(ports.plane, arm.service) for arm in arms},
            emergency=next(iter(emergency), None),
        )
    routes = ports.rollouts.routes(model)
    return VariantObservation(
        judgements={
            variant.arm.service: guardrail(definition, ports, routes, variant, len(arms))
            for variant in test.variants
        },
        stopped=_stopped(ports, routes),
        emergency=next(iter(emergency), None),
    )


def guardrail(
    definition: ModelDefinition, ports: Ports, routes: Routes, variant: Variant, variants: int
) -> Judgement:
    """The guardrail's verdict on a variant, by its requests of the present generation: UNHEALTHY if
    it is proven to fail more requests than a promoted champion may.

    Args:
        variants: number of variants that share the guardrail's chance of a false alarm.
    """
    subject = VariantSubject(
        routes.generation,
        "champion",
        variant.arm.version,
        1000 * waited_ms(definition),
        scale=definition.decision.scale,
        buckets=variant.buckets,
    )
    found = count(ports.counted, ports.log, definition.name, subject)
    limits = step_limits(definition.rollout, None, ALIKE)
    part = dataclasses.replace(limits, error_share=limits.error_share / variants)
    gateways = tuple(ports.passes.gateways(definition.name))
    return judge(found.seen, found.complete, part, Sources(found.watermarks, gateways))


def _stopped(ports: Ports, routes: Routes) -> Mapping[str, Mapping[str, str]]:
    """Service → gateway → why that gateway no longer asks it, since people last cleared stops."""
    found: dict[str, dict[str, str]] = {}
    for lease in ports.passes.gateways(routes.model):
        if (lease.generation or 0) < routes.cleared:
            continue
        for service, why in lease.stopped.items():
            found.setdefault(service, {})[lease.gateway] = why
    return found
