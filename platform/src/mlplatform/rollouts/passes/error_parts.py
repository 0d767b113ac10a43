"""The parts of a rollout's chance of a false alarm that its phases and their gates have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from mlplatform.model.policies.rollout import CanaryStep, RolloutPolicy, ShadowStep
from mlplatform.rollouts.verdicts.verdict import Errors

Phase = Literal["shadow", "first_step", "later_step", "champion"]
"""A phase of a rollout as far as it matters here: canary's first step, and each later one."""
SHADOW_PART: Final = 0.5
"""Part of a rollout's chance of a false alarm that shadow takes. Harm that shadow finds reaches no
customer, and both arms answer all requests there: an error proves more than in canary."""
FIRST_STEP: Final = 3
"""Parts of the rest that canary's first step takes, where each later step and the time as
provisional champion take one. What shadow could not see is found there, and the sooner, the fewer
customers meet it."""
_OF_STEP: Final[Mapping[str, int]] = {
    **{"failures": 4, "alerts": 1, "latency_p50": 1, "latency_p99": 1},
    **{"split": 1, "recall": 1},
}
PARTS: Final[Mapping[Phase, Mapping[str, int]]] = {
    "shadow": {"alerts": 4, "disagreement": 2, "recall": 2, "failures": 1, "utilisation": 1},
    "first_step": _OF_STEP,
    "later_step": _OF_STEP,
    "champion": {"guardrail": 8, "recall": 1},
}
"""Phase → gate that can stop a challenger → number of parts of the phase's error.

Shadow gives most to alerts, of which small differences need the most requests. Each failure in
canary is a customer without an answer, so nearly half of a step's error looks for them.
"""
OF_SEGMENTS: Final[Mapping[Phase, int]] = {"shadow": 6, "first_step": 1, "later_step": 1}
"""Parts that all segments together take, where there are any."""


def phase_of(policy: RolloutPolicy, step: ShadowStep | CanaryStep) -> Phase:
    """The phase that a step of the ramp is."""
    if isinstance(step, ShadowStep):
        return "shadow"
    return "first_step" if step.percent <= policy.canary[0].percent else "later_step"


def phases(policy: RolloutPolicy) -> tuple[Phase, ...]:
    """All phases of a rollout, in order."""
    later: list[Phase] = ["later_step"] * (len(policy.canary) - 1)
    return ("shadow", "first_step", *later, "champion")


def phase_error(policy: RolloutPolicy, phase: Phase) -> float:
    """The phase's part of the rollout's chance of a false alarm."""
    if phase == "shadow":
        return policy.false_alarm_share * SHADOW_PART
    parts = FIRST_STEP if phase == "first_step" else 1
    others = policy.false_alarm_share * (1 - SHADOW_PART)
    return others * parts / (FIRST_STEP + len(policy.canary))


def gate_errors(policy: RolloutPolicy, phase: Phase) -> Errors:
    """The errors of the gates of a phase."""
    return Errors(_one_part(policy, phase), policy.missed_harm_share, dict(PARTS[phase]))


def segment_errors(policy: RolloutPolicy, phase: Phase) -> Errors:
    """The errors that the gates of all segments share in a phase."""
    stop = _one_part(policy, phase) * OF_SEGMENTS.get(phase, 0)
    return Errors(stop, policy.missed_harm_share)


def guardrail_error(policy: RolloutPolicy) -> float:
    """The chance that the guardrail stops a champion that is at its limit."""
    return gate_errors(policy, "champion").of("guardrail").stop


def outcome_errors(policy: RolloutPolicy) -> Errors:
    """The errors of the gate on outcomes. One sample is read in several phases by bounds that hold
    at every interim analysis, so this gate gets its parts of all phases together."""
    stop = sum(gate_errors(policy, phase).of("recall").stop for phase in phases(policy))
    return Errors(stop, policy.missed_harm_share)


def _one_part(policy: RolloutPolicy, phase: Phase) -> float:
    of_segments = OF_SEGMENTS.get(phase, 0) if policy.segments is not None else 0
    return phase_error(policy, phase) / (sum(PARTS[phase].values()) + of_segments)
