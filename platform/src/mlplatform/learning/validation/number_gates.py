"""Whether a candidate of numbers may serve: the gates common to all tasks, and those on errors."""

from __future__ import annotations

from typing import Final

from mlplatform.learning.validation.feature_gates import judge_skew
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.learning.validation.gate_result import GateResult, Verdict, not_shown, window_text
from mlplatform.learning.validation.gates import (
    at_least,
    judge_feeds,
    judge_flips,
    judge_golden,
    judge_latency,
    judge_parity,
    judge_schema,
)
from mlplatform.learning.validation.labelled_evidence import (
    LabelledEvidence,
    judge_leaks,
    undecided_reason,
)
from mlplatform.learning.validation.statistics import QUALITY_LEVEL, Interval
from mlplatform.model.policies.real import RealGates, RealTraining

WORDS: Final = {
    "mae": "mean absolute error",
    "rmse": "root mean square error",
    "quantile_loss": "quantile loss",
}


def judge_numbers(
    evidence: LabelledEvidence, gates: RealGates, training: RealTraining, unit: str
) -> GateReport:
    """Every gate's result on the evidence.

    Args:
        unit: unit of the model's numbers, as people write it.
    """
    data = evidence.data
    where = window_text(data.units_share, data.window_to_ms, training.window_days)
    results = (
        at_least("rows", data.rows, training.minimum_rows, f"requests {where}"),
        at_least(
            "labelled", evidence.data.positives, training.minimum_labelled, "labelled requests"
        ),
        *judge_feeds(evidence.data, gates),
        judge_schema(evidence.schema),
        judge_mae(evidence, gates, unit),
        _no_larger(evidence, "rmse", gates.rmse_rise, unit),
        _no_larger(evidence, "quantile_loss", gates.quantile_loss_rise, unit),
        judge_bias(evidence, gates, unit),
        judge_leaks(evidence),
        judge_parity(evidence.running, gates),
        judge_golden(evidence.running),
        judge_latency(evidence.running, gates),
        judge_flips(evidence.replay, gates),
        judge_skew(
            evidence.skew, gates, is_first=not evidence.champion, has_features=evidence.has_features
        ),
    )
    return evidence.report(results)


def judge_mae(evidence: LabelledEvidence, gates: RealGates, unit: str) -> GateResult:
    """The gate on the mean absolute error, by the rule of `gates.judge_quality`: it is no larger
    than the champion's beyond the tolerance, and no rise is proven; for a first version it is at
    most a declared one."""
    name, found = "mae", evidence.measure("mae")
    seen = next((m for m in evidence.unseen if m.name == name), None)
    if seen is not None and seen.champion is not None and seen.difference is not None:
        limit, rise = gates.mae_loss * seen.champion.value, seen.difference
        if rise.low > limit:
            reason = (
                f"a rise of the {WORDS[name]} is proven on days that the champion was not fitted "
                f"to: the whole {_level(rise, '+')} {unit} lies beyond the tolerated {limit:+.4g}"
            )
            return GateResult(name, "failed", rise.value, limit, reason, (rise.low, rise.high))
    if found is None or found.champion is not None or undecided_reason(evidence, name) is not None:
        return _no_larger(evidence, name, gates.mae_rise, unit)
    own, limit = found.candidate, gates.maximum_mae
    reason = (
        f"{WORDS[name]} {own.value:.4g} {unit} on {evidence.labelled:,} labelled requests "
        f"({_level(own)}; all of it must be {limit:.4g} or less)"
    )
    return _judged(name, own, limit, reason, not_shown(evidence.units, "gates.maximum_mae"))


def judge_bias(evidence: LabelledEvidence, gates: RealGates, unit: str) -> GateResult:
    """The gate on bias: numbers are not shown to be too high or too low on average, by more than is
    declared."""
    name, limit, found = "bias", gates.maximum_bias, evidence.measure("bias")
    if (why := undecided_reason(evidence, name)) is not None or found is None:
        return GateResult(name, "inconclusive", None, limit, why or "it was not measured")
    own = found.candidate
    reason = (
        f"numbers are {own.value:+.4g} {unit} off their labels on average ({_level(own, '+')}; "
        f"part of it must lie between -{limit:.4g} and +{limit:.4g})"
    )
    verdict: Verdict = "failed" if own.low > limit or own.high < -limit else "passed"
    return GateResult(name, verdict, own.value, limit, reason, (own.low, own.high))


def _no_larger(evidence: LabelledEvidence, name: str, rise: float, unit: str) -> GateResult:
    """A gate on an error, as a share of the champion's on the same requests."""
    words, found = WORDS[name], evidence.measure(name)
    if (why := undecided_reason(evidence, name)) is not None or found is None:
        return GateResult(name, "inconclusive", None, None, why or f"no {words} was measured")
    text = f"{words} {found.candidate.value:.4g} {unit}"
    if found.champion is None or found.difference is None:
        reason = f"{text}; a first version has no other to compare with"
        return GateResult(name, "passed", found.candidate.value, None, reason)
    gap, limit = found.difference, rise * found.champion.value
    reason = (
        f"{text}, the champion's {found.champion.value:.4g} on the same {evidence.labelled:,} "
        f"labelled requests; difference {gap.value:+.4g} ({_level(gap, '+')}; all of it must be "
        f"{limit:+.4g} or less, which is {100 * rise:g} % of the champion's error)"
    )
    return _judged(name, gap, limit, reason, not_shown(evidence.units, f"gates.{name}_rise"))


def _judged(name: str, found: Interval, limit: float, reason: str, more: str) -> GateResult:
    verdict: Verdict = "inconclusive"
    if found.high <= limit:
        verdict = "passed"
    elif found.low > limit:
        verdict = "failed"
    reason += more if verdict == "inconclusive" else ""
    return GateResult(name, verdict, found.value, limit, reason, (found.low, found.high))


def _level(found: Interval, sign: str = "") -> str:
    form = f"{{:{sign}.4g}}"
    ends = f"{form.format(found.low)} to {form.format(found.high)}"
    return f"{100 * QUALITY_LEVEL:g} % interval {ends}"
