"""The next step of an A/B/n test, or why it waits: a pure function of its state and the
observations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlplatform.model.policies.rollout import RolloutPolicy
from mlplatform.model.routes import Variant
from mlplatform.rollouts.journal.controls import VariantTestState
from mlplatform.rollouts.journal.evidence import Evidence
from mlplatform.rollouts.passes.freeze import frozen_at, frozen_ms
from mlplatform.rollouts.passes.next_step import Hold, Service
from mlplatform.rollouts.passes.wait_reasons import Now
from mlplatform.rollouts.verdicts.judgement import Judgement
from mlplatform.runtime.times import duration_text, text_of_any, utc_minute_text
from mlplatform.runtime.units import DAY_MS, DAY_S


@dataclass(frozen=True, slots=True)
class VariantObservation:
    """The observations of a pass before it decides about a test.

    Args:
        services: service of a variant → its status; empty once the variants answer.
        judgements: service of a variant → the guardrail's verdict on it; empty before.
        stopped: service of a variant → gateway → why that no longer asks it.
        emergency: id of an emergency promotion that is under way; None if there is none.
    """

    services: Mapping[str, Service] = field(default_factory=dict)
    judgements: Mapping[str, Judgement] = field(default_factory=dict)
    stopped: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    emergency: str | None = None


@dataclass(frozen=True, slots=True)
class Begin:
    """Let the variants answer."""

    reason: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Take a variant out, because its harm is proven."""

    variant: Variant
    reason: str
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class End:
    """End the test."""

    reason: str


VariantStep = Begin | Remove | End | Hold


def next_step(
    test: VariantTestState, observation: VariantObservation, policy: RolloutPolicy, now: Now
) -> VariantStep:
    """The next step of a running test."""
    if observation.emergency is not None:
        return End(f"the emergency promotion {observation.emergency} is under way")
    if test.answering is None:
        return _starting(test, observation, policy, now)
    for variant in test.variants:
        if removal := _removal(variant, observation):
            return removal
    days, since = test.started.days, test.answering
    passed_ms = max(now.event_ms - since.event_ms, now.wall_ms - since.wall_ms)
    if passed_ms >= days * DAY_MS:
        return End(f"it has run for {duration_text(days * DAY_S)}, as it was started for")
    until_ms = since.event_ms + round(days * DAY_MS)
    return Hold(f"it runs until event time {text_of_any(until_ms, utc_minute_text)}")


def _starting(
    test: VariantTestState, observation: VariantObservation, policy: RolloutPolicy, now: Now
) -> VariantStep:
    services = {v.arm.service: observation.services[v.arm.service] for v in test.variants}
    unready = [f"{name}: {s.reason}" for name, s in services.items() if not s.ready]
    began_ms = test.started.wall_ms
    waited_ms = now.wall_ms - began_ms - frozen_ms(policy.freeze, began_ms, now.wall_ms)
    if unready and waited_ms >= policy.deploy_wall_deadline_s * 1000:
        return End(f"not ready in time: {'; '.join(unready)}")
    if frozen := frozen_at(policy.freeze, now.wall_ms):
        return Hold(f"frozen until {frozen.until}: {frozen.reason}")
    if unready:
        return Hold(f"not ready yet: {'; '.join(unready)}")
    return Begin("the services of all variants are ready")


def _removal(variant: Variant, observation: VariantObservation) -> Remove | None:
    service = variant.arm.service
    if stopped := observation.stopped.get(service):
        reasons = "; ".join(f"{gateway}: it {why}" for gateway, why in sorted(stopped.items()))
        return Remove(variant, f"stopped by gateways: {reasons}", {"stopped": dict(stopped)})
    judgement = observation.judgements.get(service)
    if judgement is not None and judgement.verdict == "UNHEALTHY":
        return Remove(variant, judgement.reason, judgement.evidence)
    return None
