"""Is the challenger good enough? A verdict with its reasons, from windows of the decision log.

Three kinds of gates:

1. In shadow and canary both arms are compared (`comparison`), by bounds that hold at every interim
   analysis.
2. The split is tested by a p-value that holds at every interim analysis.
3. A promoted champion has nobody to be compared with: a guardrail bounds the share of its failures,
   at every interim analysis too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mlplatform.decisions.records.port import Watermark
from mlplatform.learning.validation.report_entries import NOTHING_YET
from mlplatform.model.policies.rollout import StopLimits, Tolerance
from mlplatform.rollouts.journal.basis_evidence import Role
from mlplatform.rollouts.journal.evidence import Evidence, GateEvidence, Verdict, renewed_values
from mlplatform.rollouts.journal.journal import GatewayLease
from mlplatform.rollouts.verdicts.aggregates import ARMS, Aggregates
from mlplatform.rollouts.verdicts.comparison import (
    STARVING,
    Requirements,
    SegmentStep,
    comparisons,
)
from mlplatform.rollouts.verdicts.completeness import behind, unlogged_gateways
from mlplatform.rollouts.verdicts.statistics import sample_ratio_p_value, share_difference
from mlplatform.rollouts.verdicts.verdict import (
    Errors,
    Gate,
    Prediction,
    certainty_text,
    difference_values,
    fraction,
    in_percent,
    number_of,
)

ALONE = 2.0
"""A champion alone is held to this many times the limit of a challenger: no other arm answers
beside it, so what the machine does to both counts against it."""
OWN_LIMITS: Final = {"failures": STARVING, "guardrail": ALONE}
"""Gate → the multiple of the limit of failures beyond which a version is stopped, however many the
champion fails."""

COUNTED_PART = 0.5
"""Least share of a sample's customers whose answers must count (not degraded): if fewer count, they
may be unlike the others."""


@dataclass(frozen=True, slots=True)
class StepPolicy:
    """The requirements of a step of the ramp.

    Args:
        percent: percentage of customers in the challenger's arm, 0 to 100; None in shadow.
        units, requests: minimum sample: number of customers and number of requests.
        pods: number of the challenger's pods once it gets all of the traffic.
        segments: segments that are also judged on their own.
        immaterial_us: microseconds by which the challenger's latency may be higher without harm.
    """

    stop: StopLimits
    tolerance: Tolerance
    errors: Errors
    predicted: Prediction
    percent: float | None
    units: int
    requests: int
    pods: int
    segments: tuple[SegmentStep, ...] = ()
    immaterial_us: float = 0.0


@dataclass(frozen=True, slots=True)
class GateLimits:
    """The limits for a version in its present phase.

    Args:
        error_share: probability that the guardrail stops a champion that is at the limit.
        step: requirements of the step; None outside shadow and canary, where only the guardrail
            counts.
    """

    error_share: float
    failure_share: float
    guardrail_failures: int
    step: StepPolicy | None


@dataclass(frozen=True, slots=True)
class Sources:
    """The writers of the log and the gateways that apply the routes, at the time of the read."""

    watermarks: tuple[Watermark, ...]
    gateways: tuple[GatewayLease, ...]


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on a step, and canonical evidence for the journal."""

    verdict: Verdict
    reasons: tuple[str, ...]
    evidence: Evidence

    @property
    def reason(self) -> str:
        return " ".join(self.reasons)


def judge(
    seen: Aggregates,
    complete: Aggregates,
    limits: GateLimits,
    sources: Sources,
    slow_gates: Sequence[Gate] = (),
) -> Judgement:
    """The verdict on the arm in the challenger's place.

    UNHEALTHY needs no complete log: harm that was seen stays seen.

    Args:
        seen: sums over everything that is in the log.
        complete: sums over the records to which no more can come; they show health.
        slow_gates: gates from matured labels; empty if there are none.
    """
    if limits.step is not None:
        return _compared(seen, complete, limits, limits.step, sources, slow_gates)
    tripped = _failing(seen, limits)
    if tripped is not None:
        return _judgement([tripped], seen, sources)
    return _when_complete([_calm(complete), *slow_gates], complete, sources)


def shown_values(name: str, evidence: Evidence) -> dict[str, float | int | None]:
    """The values of a gate in evidence, for pictures: with the limit, as `stop`, of one that held a
    version's failures to a limit of its own.

    Evidence never had that limit. It follows from the basis, so that evidence stays as it is.
    """
    values = renewed_values(evidence["gates"][name].get("values") or {})
    basis = evidence.get("basis")
    if basis is None or name not in OWN_LIMITS or "proven" not in values or "limit" in values:
        return values
    return values | {"stop": OWN_LIMITS[name] * basis["limits"]["failure_share"]}


def _compared(
    seen: Aggregates,
    complete: Aggregates,
    limits: GateLimits,
    step: StepPolicy,
    sources: Sources,
    slow_gates: Sequence[Gate],
) -> Judgement:
    gates = [*_comparisons(seen, limits, step), *slow_gates]
    if any(gate.verdict == "UNHEALTHY" for gate in gates):
        return _judgement(gates, seen, sources)
    if complete is not seen:
        gates = [*_comparisons(complete, limits, step), *slow_gates]
    if not _is_enough(complete, step):
        gates = [*_waited_for(seen, step, sources), _too_few(complete, step), *gates]
        return _judgement(gates, complete, sources)
    return _when_complete([*gates, *_answers_gate(complete)], complete, sources)


def _is_enough(found: Aggregates, step: StepPolicy) -> bool:
    return found.count("units") >= step.units and found.count("requests") >= step.requests


def _waited_for(seen: Aggregates, step: StepPolicy, sources: Sources) -> list[Gate]:
    """Gates that say whose records are missing from a sample that is otherwise large enough, or
    that it will never get."""
    if not _is_enough(seen, step):
        # Records of a gateway whose log is not this one will never come.
        return _incomplete(unlogged_gateways(sources.watermarks, sources.gateways))
    return _incomplete(_behind(seen, sources))


def _comparisons(found: Aggregates, limits: GateLimits, step: StepPolicy) -> list[Gate]:
    terms = Requirements(
        stop=step.stop,
        tolerance=step.tolerance,
        errors=step.errors,
        failure_share=limits.failure_share,
        predicted=step.predicted,
        pods=step.pods,
        segments=step.segments,
        immaterial_us=step.immaterial_us,
    )
    role: Role = "shadow" if step.percent is None else "canary"
    return [*comparisons(found, terms, role), *_split_gate(found, step)]


def _failing(seen: Aggregates, limits: GateLimits) -> Gate | None:
    """The gate of the guardrail, if it proves too many failures; else None."""
    error, allowed = limits.error_share, ALONE * limits.failure_share
    views = seen.provable_failures
    found = share_difference(views, stop_error=error, pass_error=error, ratio=0.0)
    failures = seen.count("failures")
    if failures < limits.guardrail_failures or not found.stop_low > allowed:
        return None
    counts = seen.arm("challenger")
    reason = (
        f"The version fails to answer at least {in_percent(found.stop_low)} of its requests in "
        f"time ({certainty_text(error)}). "
        f"It failed to answer {fraction(failures, counts['requests'], 'requests')} of "
        f"{counts['units']:,} customers. These failures lie in {counts['failed_moments']:,} of "
        f"{counts['moments']:,} outage slices (quarters of a second) with a request. "
        f"The limit is {in_percent(allowed)}."
    )
    values = difference_values(found) | {"proven": number_of(found.stop_low)}
    return Gate("guardrail", "UNHEALTHY", reason, values)


def _calm(found: Aggregates) -> Gate:
    if not found.count("requests"):
        reason = (
            f"{NOTHING_YET}: the version has had no request since its share was set "
            f"(generation {found.generation} of the routes)."
        )
        return Gate("guardrail", "INCONCLUSIVE", reason, {})
    return Gate(
        "guardrail",
        "HEALTHY",
        "The version is not proven to fail more requests than its limit.",
        {},
    )


def _answers_gate(found: Aggregates) -> list[Gate]:
    counted, units = found.counted, found.count("units")
    if counted >= COUNTED_PART * units:
        return []
    reason = (
        "Too few of the challenger's answers count: the others are degraded. "
        f"{fraction(counted, units, 'customers')} have an answer that counts; at least "
        f"{100 * COUNTED_PART:g} % are needed."
    )
    return [Gate("answers", "INCONCLUSIVE", reason, {"counted": counted, "units": units})]


def _split_gate(found: Aggregates, step: StepPolicy) -> list[Gate]:
    if step.percent is None:
        return []
    mine, others = found.appeared
    everyone = mine + others
    p_value = sample_ratio_p_value(mine, everyone, share=step.percent / 100)
    values: dict[str, float | int | None] = {
        "challenger_units": mine,
        "units": everyone,
        "p_value": number_of(p_value),
    }
    figures = (
        f"The challenger answered {fraction(mine, everyone, 'customers')}; {step.percent:g} % "
        "were planned."
    )
    if not math.isfinite(p_value):
        return [Gate("split", "INCONCLUSIVE", f"No customer has come yet. {figures}", values)]
    error = step.errors.of("split").stop
    if p_value >= error:
        reason = f"Customers are split as planned. {figures}"
        return [Gate("split", "HEALTHY", reason, values)]
    reason = (
        f"Customers are not split as planned ({certainty_text(error)}). {figures} "
        "A fair split would be as uneven in at most one of "
        f"{1 / max(p_value, 1e-6):,.0f} rollouts."
    )
    return [Gate("split", "UNHEALTHY", reason, values)]


def _too_few(found: Aggregates, step: StepPolicy) -> Gate:
    units, requests = found.count("units"), found.count("requests")
    needed = [(units, step.units, "customers"), (requests, step.requests, "requests")]
    short = [(had, least, what) for had, least, what in needed if had < least]
    answered = " and ".join(f"{had:,} of the {least:,} {what}" for had, least, what in short)
    reason = f"The sample is still too small. It has {answered} that the step needs."
    return Gate("sample", "INCONCLUSIVE", reason, {"units": units, "requests": requests})


def _when_complete(gates: list[Gate], found: Aggregates, sources: Sources) -> Judgement:
    return _judgement(_incomplete(_behind(found, sources)) or gates, found, sources)


def _behind(found: Aggregates, sources: Sources) -> tuple[str, ...]:
    event_ms = found.extent.until_event_ms or 0
    return behind(
        sources.watermarks, sources.gateways, event_ms=event_ms, generation=found.generation
    )


def _incomplete(missing: Sequence[str]) -> list[Gate]:
    named = (f"{text[0].upper()}{text[1:]}." for text in missing)
    reason = " ".join(("The log is not complete yet.", *named))
    return [Gate("log", "INCONCLUSIVE", reason, {})] if missing else []


def _judgement(gates: list[Gate], found: Aggregates, sources: Sources) -> Judgement:
    verdict = _worst(gates)
    telling = [g for g in gates if g.verdict == verdict and (g.holds or verdict != "INCONCLUSIVE")]
    if verdict == "HEALTHY":
        telling += [g for g in gates if g.verdict == "INCONCLUSIVE"]
    evidence: Evidence = {
        "verdict": verdict,
        "generation": found.generation,
        "records": found.records,
        "until_event_ms": found.extent.until_event_ms,
        "arms": {arm: found.arm(arm) for arm in ARMS},
        "dropped": dict(found.dropped),
        "gates": {g.name: _plain(g) for g in gates},
        "log": {writer: list(numbers) for writer, numbers in found.extent.ranges.items()},
        "position": dict(found.position),
        "counted": found.fingerprint,
        "watermarks": {w.writer: [w.seq, w.event_ms] for w in sources.watermarks},
    }
    return Judgement(verdict, tuple(g.reason for g in telling), evidence)


def _plain(gate: Gate) -> GateEvidence:
    found: GateEvidence = {"verdict": gate.verdict, "reason": gate.reason, "values": gate.values}
    return found if gate.holds else found | {"holds": False}


def _worst(gates: list[Gate]) -> Verdict:
    if any(gate.verdict == "UNHEALTHY" for gate in gates):
        return "UNHEALTHY"
    waited_for = {gate.verdict for gate in gates if gate.holds}
    return "HEALTHY" if waited_for == {"HEALTHY"} else "INCONCLUSIVE"
