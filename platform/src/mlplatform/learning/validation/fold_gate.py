"""Whether a model's training works over folds in time, and how much the folds differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mlplatform.learning.validation.gate_result import (
    MINIMUM_LABELLED,
    GateResult,
    Verdict,
    too_few_units,
)
from mlplatform.learning.validation.measures import SMALLEST, Measure
from mlplatform.learning.validation.statistics import Interval
from mlplatform.model.policies.classes import ClassGates
from mlplatform.model.policies.real import RealGates
from mlplatform.model.policies.training import GatePolicy
from mlplatform.runtime.times import day_text

NAME: Final = "folds"
QUALITY: Final = ("average_precision", "accuracy", "mae")
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
            them; of a model of classes or of numbers both are equal.
        units: number of customers, or other units, of the test requests.
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
    units: int = 0
    is_unseen: bool = False
    measures: tuple[Measure, ...] = ()
    problem: str = ""

    @property
    def quality(self) -> Measure | None:
        """Average precision, the accuracy of classes or the mean absolute error of numbers; None
        if the fold could not be tested."""
        return next((m for m in self.measures if m.name in QUALITY), None)


@dataclass(frozen=True, slots=True)
class _Rule:
    """The limits of folds, by the measure of the model's task.

    Args:
        least: least number of what is counted in a fold.
        loss: loss to the champion that is overlooked; of an error its rise, as a share of the
            champion's.
        bound: least value of a first version; of an error the largest.
        gate: name of the gate that compares the champion over all held-out days.
        is_error: whether less is better.
        unit: unit of an error.
    """

    words: str
    counted: str
    least: int
    loss: float
    bound: float
    gate: str
    is_error: bool = False
    unit: str = ""
    form: str = "{:.3f}"

    def is_short(self, found: Interval) -> bool:
        """Whether all of a first version's interval lies on the bad side of the bound."""
        return found.low > self.bound if self.is_error else found.high < self.bound

    def lost(self, measure: Measure) -> Interval | None:
        """The difference to the champion; of an error as a share of the champion's. None if it
        can't be told."""
        gap = measure.difference
        if gap is None or measure.champion is None or not self.is_error:
            return gap
        whole = max(measure.champion.value, SMALLEST)
        return Interval(gap.value / whole, gap.low / whole, gap.high / whole)

    @property
    def limit(self) -> float:
        """The largest overlooked difference to the champion."""
        return self.loss if self.is_error else -self.loss

    def is_lost(self, gap: Interval) -> bool:
        """Whether all of a difference to the champion lies beyond what is overlooked."""
        return gap.low > self.limit if self.is_error else gap.high < self.limit

    def worst(self, values: Sequence[float]) -> float:
        return max(values) if self.is_error else min(values)

    def text(self, value: float) -> str:
        return f"{self.form.format(value)} {self.unit}".rstrip()

    def gap_text(self, gap: float) -> str:
        return f"{100 * gap:+.1f} %" if self.is_error else f"{gap:+.3f}"


def judge_folds(
    found: Sequence[FoldFinding], gates: GatePolicy, *, has_champion: bool, unit: str = ""
) -> GateResult:
    """The gate refuses where most folds prove a loss: to the champion, over folds not fitted to;
    without one, to `minimum_average_precision`; of classes, to `minimum_accuracy`; of numbers, to
    `maximum_mae`.

    A fold proves a loss where its whole 90 % interval lies beyond the limit. By chance a
    fold does so at most 5 times in 100, and more than half of several folds less often. A fold that
    can't be tested, or holds too few positives or labels, does not pass.

    Args:
        unit: unit of a model's numbers, as people write it; empty for other tasks.
    """
    rule = _rule(gates, unit)
    limit = rule.limit if has_champion else rule.bound
    for fold in found:
        if why := _problem_of(fold, rule):
            return _unknown(limit, f"fold {fold.number} (from {day_text(fold.from_ms)}): {why}")
    own = _values(found)
    if not own or not all(map(math.isfinite, own)):
        return _unknown(limit, "no fold was tested")
    spread = float(np.std(own, ddof=1)) if len(own) > 1 else 0.0
    text = (
        f"{rule.words} {rule.form.format(min(own))} to {rule.text(max(own))} over {len(own)} folds "
        f"in time (mean {rule.form.format(np.mean(own))}, standard deviation "
        f"{rule.form.format(spread)})"
    )
    return _compared(found, text, rule) if has_champion else _alone(found, text, rule)


def _rule(gates: GatePolicy, unit: str) -> _Rule:
    match gates:
        case ClassGates(accuracy_loss=loss, minimum_accuracy=least):
            counted, name = "labelled requests", "accuracy"
            return _Rule(name, counted, MINIMUM_LABELLED, loss, least, name)
        case RealGates(mae_loss=loss, maximum_mae=most):
            words, counted, form = "mean absolute error", "labelled requests", "{:.4g}"
            return _Rule(words, counted, MINIMUM_LABELLED, loss, most, "mae", True, unit, form)
        case _:
            loss, least = gates.average_precision_loss, gates.minimum_average_precision
            words, counted = "average precision", "positives"
            return _Rule(words, counted, FEWEST_POSITIVES, loss, least, "quality")


def _problem_of(fold: FoldFinding, rule: _Rule) -> str:
    if fold.problem:
        return fold.problem
    if fold.positives < rule.least:
        return f"only {fold.positives} {rule.counted} (at least {rule.least} wanted)"
    if (few := too_few_units(fold.units)) is not None:
        return few
    return "" if fold.quality else "its scores could not be measured"


def _alone(found: Sequence[FoldFinding], text: str, rule: _Rule) -> GateResult:
    measures = [m for fold in found if (m := fold.quality) is not None]
    bad = sum(rule.is_short(m.candidate) for m in measures)
    side = "more" if rule.is_error else "less"
    reason = (
        f"{text}. It is proven to be {side} than {rule.text(rule.bound)} in {bad} of these folds; "
        "this may happen in half of them at most"
    )
    worst = rule.worst(_values(found))
    return GateResult(NAME, _verdict(bad, len(measures)), worst, rule.bound, reason)


def _compared(found: Sequence[FoldFinding], text: str, rule: _Rule) -> GateResult:
    gaps = [
        gap
        for fold in found
        if fold.is_unseen and (m := fold.quality) is not None and (gap := rule.lost(m))
    ]
    if len(gaps) < FEWEST_COMPARED:
        reason = (
            f"{text}. The champion can be compared in {len(gaps)} of these folds"
            f" ({FEWEST_COMPARED} wanted), because it was fitted to days of the other folds or"
            f" can't be run. The gate `{rule.gate}` compares it"
        )
        return GateResult(NAME, "passed", rule.worst(_values(found)), None, reason)
    bad, worst = sum(map(rule.is_lost, gaps)), rule.worst([gap.value for gap in gaps])
    what = "rise" if rule.is_error else "loss"
    reason = (
        f"{text}. The champion was not fitted to {len(gaps)} of the folds; the worst difference to "
        f"it is {rule.gap_text(worst)}. A {what} beyond {rule.gap_text(rule.limit)} is proven in "
        f"{bad} of these folds; this may happen in half of them at most"
    )
    return GateResult(NAME, _verdict(bad, len(gaps)), worst, rule.limit, reason)


def _values(found: Sequence[FoldFinding]) -> list[float]:
    return [m.candidate.value for fold in found if (m := fold.quality) is not None]


def _verdict(bad: int, of: int) -> Verdict:
    return "failed" if 2 * bad > of else "passed"


def _unknown(limit: float, reason: str) -> GateResult:
    return GateResult(NAME, "inconclusive", None, limit, reason)
