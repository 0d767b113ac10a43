"""Whether a model's training works over folds in time, and how much the folds differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mlplatform.learning.validation.gate_result import GateResult, Verdict
from mlplatform.learning.validation.measures import Measure
from mlplatform.model.policies.classes import ClassGates
from mlplatform.model.policies.training import GatePolicy
from mlplatform.runtime.times import day_text

NAME: Final = "folds"
QUALITY: Final = ("average_precision", "accuracy")
FEWEST_POSITIVES: Final = 10
FEWEST_COMPARED: Final = 2


@dataclass(frozen=True, slots=True)
class FoldFinding:
    """The quality of a fit of earlier days on the days after them.

    Args:
        number: number of the fold, from 1 for the oldest.
        from_ms, to_ms: start and end of the test days, UTC midnights in epoch milliseconds; the end
            is exclusive.
        fitted: number of requests from which the fit learned.
        rows, positives: number of test requests with a known outcome, and of the positives among
            them; of a model of classes both are equal.
        is_unseen: whether the champion was fitted to none of the test days; False without a
            champion.
        measures: measures of the calibrated scores, beside the champion's on the same rows.
        problem: why the fold could not be tested; empty if it was.
    """

    number: int
    from_ms: int
    to_ms: int
    fitted: int = 0
    rows: int = 0
    positives: int = 0
    is_unseen: bool = False
    measures: tuple[Measure, ...] = ()
    problem: str = ""

    @property
    def quality(self) -> Measure | None:
        """Average precision, or the accuracy of classes; None if the fold could not be tested."""
        return next((m for m in self.measures if m.name in QUALITY), None)


def judge_folds(
    found: Sequence[FoldFinding], gates: GatePolicy, *, has_champion: bool
) -> GateResult:
    """The gate refuses where most folds prove a loss: to the champion, over folds not fitted to;
    without one, to `minimum_average_precision`; of classes, to `minimum_accuracy`.

    A fold proves a loss where its whole 90 % interval lies beyond the limit. By chance a
    fold does so at most 5 times in 100, and more than half of several folds less often. A fold that
    can't be tested, or holds too few positives, does not pass.
    """
    if isinstance(gates, ClassGates):
        name, loss, least = "accuracy", gates.accuracy_loss, gates.minimum_accuracy
        counted = "labelled requests"
    else:
        name, loss, counted = "average precision", gates.average_precision_loss, "positives"
        least = gates.minimum_average_precision
    limit = -loss if has_champion else least
    for fold in found:
        if why := _problem_of(fold, counted):
            return _unknown(limit, f"fold {fold.number} (from {day_text(fold.from_ms)}): {why}")
    own = _values(found)
    if not own or not all(map(math.isfinite, own)):
        return _unknown(limit, "no fold was tested")
    spread = float(np.std(own, ddof=1)) if len(own) > 1 else 0.0
    text = (
        f"{name} {min(own):.3f} to {max(own):.3f} over {len(own)} folds in time (mean "
        f"{np.mean(own):.3f}, standard deviation {spread:.3f})"
    )
    return _compared(found, text, limit) if has_champion else _alone(found, text, limit, min(own))


def _problem_of(fold: FoldFinding, counted: str) -> str:
    if fold.problem:
        return fold.problem
    if fold.positives < FEWEST_POSITIVES:
        return f"only {fold.positives} {counted} (at least {FEWEST_POSITIVES} wanted)"
    return "" if fold.quality else "its scores could not be measured"


def _alone(found: Sequence[FoldFinding], text: str, limit: float, worst: float) -> GateResult:
    measures = [m for fold in found if (m := fold.quality) is not None]
    bad = sum(m.candidate.high < limit for m in measures)
    reason = (
        f"{text}. It is proven to be less than {limit:.3f} in {bad} of these folds; this may "
        "happen in half of them at most"
    )
    return GateResult(NAME, _verdict(bad, len(measures)), worst, limit, reason)


def _compared(found: Sequence[FoldFinding], text: str, limit: float) -> GateResult:
    gaps = [
        m.difference
        for fold in found
        if fold.is_unseen and (m := fold.quality) is not None and m.difference
    ]
    if len(gaps) < FEWEST_COMPARED:
        reason = (
            f"{text}. The champion can be compared in {len(gaps)} of these folds"
            f" ({FEWEST_COMPARED} wanted), because it was fitted to days of the other folds or"
            " can't be run. The gate `quality` compares it"
        )
        return GateResult(NAME, "passed", min(_values(found)), None, reason)
    bad, worst = sum(gap.high < limit for gap in gaps), min(gap.value for gap in gaps)
    reason = (
        f"{text}. The champion was not fitted to {len(gaps)} of the folds; the worst difference to "
        f"it is {worst:+.3f}. A loss beyond {limit:+.3f} is proven in {bad} of these folds; this "
        "may happen in half of them at most"
    )
    return GateResult(NAME, _verdict(bad, len(gaps)), worst, limit, reason)


def _values(found: Sequence[FoldFinding]) -> list[float]:
    return [m.candidate.value for fold in found if (m := fold.quality) is not None]


def _verdict(bad: int, of: int) -> Verdict:
    return "failed" if 2 * bad > of else "passed"


def _unknown(limit: float, reason: str) -> GateResult:
    return GateResult(NAME, "inconclusive", None, limit, reason)
