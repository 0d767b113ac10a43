"""Whether a candidate of classes may serve: the gates common to all tasks, and those of classes."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mlplatform.learning.validation.feature_gates import judge_skew
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.learning.validation.gate_result import (
    GateResult,
    Verdict,
    floor_gate,
    not_shown,
    window_text,
)
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
from mlplatform.learning.validation.statistics import QUALITY_LEVEL, error_bound
from mlplatform.model.policies.classes import ClassGates, ClassTraining


def judge_classes(
    evidence: LabelledEvidence, gates: ClassGates, training: ClassTraining
) -> GateReport:
    """Every gate's result on the evidence."""
    data = evidence.data
    where = window_text(data.units_share, data.window_to_ms, training.window_days)
    results = (
        at_least("rows", data.rows, training.minimum_rows, f"requests {where}"),
        judge_counts(evidence.of_class, training.minimum_per_class),
        *judge_feeds(evidence.data, gates),
        judge_schema(evidence.schema),
        judge_accuracy(evidence, gates),
        judge_macro_f1(evidence, gates),
        judge_log_loss(evidence, gates),
        judge_leaks(evidence),
        judge_certainty(evidence, gates),
        judge_parity(evidence.running, gates),
        judge_golden(evidence.running),
        judge_latency(evidence.running, gates),
        judge_flips(evidence.replay, gates),
        judge_skew(
            evidence.skew, gates, is_first=not evidence.champion, has_features=evidence.has_features
        ),
    )
    return evidence.report(results)


def judge_counts(of_class: Mapping[str, int], limit: int) -> GateResult:
    """Checks that there are enough labelled requests of each class."""
    least = min(of_class, key=lambda name: of_class[name])
    few = sum(count < limit for count in of_class.values())
    more = f"; {few} classes have fewer" if few > 1 else ""
    count = of_class[least]
    reason = (
        f"class {least} has the fewest labelled requests: {count:,} (at least {limit:,} "
        f"wanted){more}"
    )
    return GateResult("classes", "failed" if few else "passed", count, limit, reason)


def judge_accuracy(evidence: LabelledEvidence, gates: ClassGates) -> GateResult:
    """The gate on accuracy, the share of right classes, by the rule of `gates.judge_quality`."""
    lost = next((m.difference for m in evidence.unseen if m.name == "accuracy"), None)
    if lost is not None and lost.high < -gates.accuracy_loss:
        reason = (
            f"a loss of accuracy is proven on days that the champion was not fitted to: "
            f"the whole {100 * QUALITY_LEVEL:g} % interval, {lost.low:+.3f} to {lost.high:+.3f}, "
            f"lies below the tolerated {-gates.accuracy_loss:+.3f}"
        )
        ends = (lost.low, lost.high)
        return GateResult("accuracy", "failed", lost.value, -gates.accuracy_loss, reason, ends)
    return _no_worse(evidence, "accuracy", gates.accuracy_drop, gates.minimum_accuracy)


def judge_macro_f1(evidence: LabelledEvidence, gates: ClassGates) -> GateResult:
    """The gate on macro F1, the mean F1 of all classes, by the rule of `gates.judge_quality`: a
    rare class counts as much as a frequent one."""
    return _no_worse(evidence, "macro_f1", gates.macro_f1_drop, gates.minimum_macro_f1)


def judge_log_loss(evidence: LabelledEvidence, gates: ClassGates) -> GateResult:
    """The gate on log loss: the right classes are no less probable than to the champion, within the
    tolerance."""
    name, limit = "log_loss", gates.log_loss_rise
    found = evidence.measure(name)
    if (why := undecided_reason(evidence, name)) is not None or found is None:
        return GateResult(name, "inconclusive", None, limit, why or "it was not measured")
    text = f"log loss {found.candidate.value:.3f}"
    if found.champion is None or found.difference is None:
        reason = f"{text}; a first version has no other to compare with"
        return GateResult(name, "passed", found.candidate.value, None, reason)
    gap = found.difference
    reason = (
        f"{text}, the champion's {found.champion.value:.3f} on the same requests; difference "
        f"{gap.value:+.3f} ({100 * QUALITY_LEVEL:g} % interval {gap.low:+.3f} to {gap.high:+.3f}; "
        f"all of it must be {limit:+.3f} or less)"
    )
    verdict: Verdict = (
        "passed" if gap.high <= limit else "failed" if gap.low > limit else "inconclusive"
    )
    if verdict == "inconclusive":
        reason += not_shown(evidence.units, "gates.log_loss_rise")
    return GateResult(name, verdict, gap.value, limit, reason, (gap.low, gap.high))


def judge_certainty(evidence: LabelledEvidence, gates: ClassGates) -> GateResult:
    """The gate on certainty: the decided class is not shown to be right less often than its
    probability says, or more often."""
    name, limit, error = "calibration", gates.calibration_error, evidence.running.calibration_error
    value, low, high = error.value, error.low, error.high
    if any(math.isnan(v) for v in (value, low, high)):
        return GateResult(name, "inconclusive", None, limit, "the error is not a number")
    reason = (
        f"probabilities of decided classes and shares of right ones lie {100 * value:.2f} "
        f"percentage points apart on average; {error_bound(error, limit)}"
    )
    verdict: Verdict = "passed" if low <= limit else "failed"
    return GateResult(name, verdict, value, limit, reason, (low, high))


def _no_worse(evidence: LabelledEvidence, name: str, drop: float, least: float) -> GateResult:
    """A gate on a measure of which more is better: against the champion, or against a least
    value."""
    found, words = evidence.measure(name), name.replace("_f1", " F1")
    if (why := undecided_reason(evidence, name)) is not None or found is None:
        return GateResult(name, "inconclusive", None, None, why or f"no {words} was measured")
    text = f"{words} {found.candidate.value:.3f}"
    if found.champion is None or found.difference is None:
        text += f" on {evidence.labelled:,} labelled requests"
        more = not_shown(evidence.units, f"gates.minimum_{name}")
        return floor_gate(name, found.candidate, least, text, "{:.3f}", more, words)
    text += (
        f", the champion's {found.champion.value:.3f} on the same {evidence.labelled:,} labelled "
        f"requests; difference {found.difference.value:+.3f}"
    )
    more = not_shown(evidence.units, f"gates.{name}_drop")
    return floor_gate(name, found.difference, -drop, text, "{:+.3f}", more, words)
