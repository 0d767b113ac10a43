"""Whether served features may be used for training, by the last skew pass, and which inputs moved
over the days of the training set."""

from __future__ import annotations

from typing import Final

from mlplatform.learning.skew.verdict import SkewReport
from mlplatform.learning.training_sets.stability import Stability
from mlplatform.learning.validation.gate_result import GateResult, Verdict
from mlplatform.model.policies.training import GatePolicy
from mlplatform.runtime.times import day_text

SHOWN_INPUTS: Final = 3


def judge_stability(found: Stability, gates: GatePolicy) -> GateResult:
    """Tells the inputs that moved most over the days of the training set; with a limit in
    model.yaml it refuses a candidate of which one moved further."""
    name, limit = "stability", gates.stability_index
    largest = found.largest
    if not largest:
        verdict: Verdict = "passed" if limit is None else "inconclusive"
        reason = "no input could be compared: fewer than two parts of the window have requests"
        return GateResult(name, verdict, None, limit, reason)
    most = next(iter(largest))
    value = largest[most]
    shown = ", ".join(f"{one} {index:.3f}" for one, index in [*largest.items()][:SHOWN_INPUTS])
    days = ", ".join(day_text(at_ms) for at_ms in found.from_ms[1:])
    reason = (
        "population stability index of the inputs that moved most, between the days from"
        f" {day_text(found.from_ms[0])} and those from {days}: {shown}"
    )
    if limit is None:
        note = "no limit: gates.stability_index sets none, so it is reported only"
        return GateResult(name, "passed", value, None, f"{reason} ({note})")
    passed: Verdict = "passed" if value <= limit else "failed"
    return GateResult(name, passed, value, limit, f"{reason} (at most {limit:g} allowed)")


def judge_skew(
    skew: SkewReport | None, gates: GatePolicy, *, is_first: bool, has_features: bool = True
) -> GateResult:
    """Passes if no feature was skewed; where model.yaml says `tell`, skew is reported, and passes.

    If the candidate is refused, the champion stays, which reads the same features. So skew is only
    reported by default; it refuses where a team repairs feeds before the next retrain.

    Args:
        is_first: whether there is no version yet, so that no request was answered.
        has_features: whether the model has a view or a window; without one there is nothing to
            compare.
    """
    name, refuses = "skew", gates.skew == "refuse"
    if not has_features:
        reason = "the model reads no features: its inputs are all of the request"
        return GateResult(name, "passed", None, None, reason)
    if skew is None and is_first:
        reason = "no request has been answered yet, so no feature was served"
        return GateResult(name, "passed", None, None, reason)
    limit = None if skew is None else skew.share
    if skew is None:
        reason = "nobody has looked yet at what was served (mlplatform skew)"
        observed, verdict = None, _of("inconclusive", refuses)
    elif skew.skewed:
        reason, observed = skew.summary, max(f.low for f in skew.skewed)
        verdict = _of("failed", refuses)
    elif not skew.is_known:
        reason, observed, verdict = skew.summary, None, _of("inconclusive", refuses)
    else:
        counted = f"{skew.sampled:,} of {skew.population:,} decisions were counted again"
        reason = f"{skew.summary}; {counted}"
        observed, verdict = max((f.high for f in skew.features), default=0.0), "passed"
    note = (
        "" if refuses or verdict != "passed" or _is_good(skew) else " (reported only: gates.skew)"
    )
    return GateResult(name, verdict, observed, limit, reason + note)


def _is_good(skew: SkewReport | None) -> bool:
    return skew is not None and skew.is_known and not skew.skewed


def _of(verdict: Verdict, refuses: bool) -> Verdict:
    return verdict if refuses else "passed"
