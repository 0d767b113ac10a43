"""Whether served features may be used for training, by the last skew pass."""

from __future__ import annotations

from mlplatform.learning.skew.verdict import SkewReport
from mlplatform.learning.validation.gate_result import GateResult, Verdict
from mlplatform.model.policies.training import GatePolicy


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
