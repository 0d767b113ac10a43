"""Gates on parts of the held-out requests: segments, in which the candidate is beside the champion,
and groups of protected attributes, which are beside each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.fairness.errors import (
    MeasuredRows,
    group_measures,
    judge_group_errors,
)
from mlplatform.learning.training.candidate import Candidate
from mlplatform.learning.training.evaluate import Runnable
from mlplatform.learning.training.labelled_evaluation import champion_scores
from mlplatform.learning.training.own_gates import held_out_columns
from mlplatform.learning.training_sets.dataset import LabelledRows, TrainingSet
from mlplatform.learning.validation.class_measures import right_classes
from mlplatform.learning.validation.gate_result import (
    MINIMUM_LABELLED,
    OF_A_SEGMENT,
    GateResult,
)
from mlplatform.learning.validation.gates import MINIMUM_POSITIVES
from mlplatform.learning.validation.group_findings import GroupMeasures
from mlplatform.learning.validation.measures import Measure, mean_measure
from mlplatform.learning.validation.number_gates import WORDS
from mlplatform.learning.validation.number_measures import absolute_errors
from mlplatform.learning.validation.statistics import (
    MINIMUM_UNITS,
    QUALITY_LEVEL,
    Interval,
    average_precision,
    average_precision_interval,
)
from mlplatform.model.bundle import Bundle
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.policies.segments import (
    ClassSegmentGates,
    Flags,
    NumberSegmentGates,
    SegmentGates,
    ValidatedSegment,
)
from mlplatform.model.segment_rules import readable
from mlplatform.runtime.errors import InputInvalid

Scores = tuple[NDArray[np.float64], NDArray[np.float64] | None]
"""The candidate's scores by the model's task, and the champion's; None without one."""


@dataclass(frozen=True, slots=True)
class SegmentRule:
    """The measure that segments are compared by, for a model's task.

    Args:
        words, form: the measure's name, and the form of its values.
        unit: unit of an error, by which less is better; empty for a measure of which more is.
        tolerated: largest tolerated loss; of an error the largest rise, as a share of the
            champion's.
        least, of_them: the least number that shows anything, and of what.
        units: the least number of units of assignment that shows anything.
    """

    words: str
    tolerated: float
    least: int
    of_them: str
    units: int = 1
    unit: str = ""
    form: str = "{:.3f}"

    @property
    def is_error(self) -> bool:
        return bool(self.unit)

    def limit(self, found: Measure | None) -> float | None:
        """The limit of a difference; None for an error that has no champion's to be a share of."""
        if not self.is_error:
            return -self.tolerated
        if found is None or found.champion is None or not math.isfinite(found.champion.value):
            return None
        return self.tolerated * found.champion.value

    def is_within(self, difference: Interval, limit: float) -> bool:
        """Whether all of a difference is no worse than the limit."""
        return difference.high <= limit if self.is_error else difference.low >= limit

    def is_beyond(self, difference: Interval, limit: float) -> bool:
        """Whether all of a difference is worse than the limit."""
        return difference.low > limit if self.is_error else difference.high < limit

    def text(self, value: float, sign: str = "") -> str:
        """A value, or with a sign a difference, in the measure's form and unit."""
        return f"{self.form.replace(':', f':{sign}')} {self.unit}".format(value).rstrip()


@dataclass(frozen=True, slots=True)
class SegmentFinding:
    """The measure in one segment of the held-out days; a difference is candidate less champion.

    Args:
        counted: number of the positives, or of the labelled requests, of which some are wanted.
        units: number of units of assignment that these requests are of.
        measure: None if there are too few. Without a champion it has no difference; it is NaN if
            the champion can't be run any more.
        unseen: the measure on days to which the champion was not fitted; None if these hold too
            few.
    """

    segment: ValidatedSegment
    rows: int
    counted: int
    units: int
    measure: Measure | None = None
    unseen: Measure | None = None


def judge_segments(findings: Sequence[SegmentFinding], rule: SegmentRule) -> Iterator[GateResult]:
    """A gate for each segment. All of them share the error of one (decisions 0152 and 0172).

    A proven loss refuses the candidate. So does a segment that does not show what is tolerated,
    unless it is not required: that is told, and passes.
    """
    for found in findings:
        name, measure = f"{OF_A_SEGMENT}{found.segment.name}", found.measure
        where = f"{found.rows:,} requests with {found.counted:,} {rule.of_them}"
        if measure is None:
            lacking = f"{where}, {rule.least} {rule.of_them} wanted"
            if found.counted >= rule.least:
                lacking = f"{where} of {found.units} customers, {rule.units} customers wanted"
            yield _not_shown(found, name, rule, lacking)
            continue
        text = f"{rule.words} {rule.text(measure.candidate.value)}"
        if measure.champion is None or measure.difference is None:
            reason = f"{text} on {where}; there is no champion yet"
            yield GateResult(name, "passed", measure.candidate.value, None, reason)
        elif not _is_finite(measure.difference):
            yield _not_shown(found, name, rule, "the champion can't be compared on these requests")
        else:
            text += (
                f", the champion's {rule.text(measure.champion.value)} on {where}; "
                f"difference {_ends(measure.difference, len(findings), rule)}"
            )
            yield _judged(found, name, rule, text)


def _judged(found: SegmentFinding, name: str, rule: SegmentRule, text: str) -> GateResult:
    assert found.measure is not None
    gap, limit = found.measure.difference, rule.limit(found.measure)
    assert gap is not None
    assert limit is not None
    bound = f"{rule.text(limit, '+')} or {'less' if rule.is_error else 'more'}"
    if rule.is_within(gap, limit):
        reason = f"{text}; all of it is {bound}"
        return GateResult(name, "passed", gap.value, limit, reason, (gap.low, gap.high))
    proof, beyond = found.unseen, rule.limit(found.unseen)
    lost = None if proof is None else proof.difference
    if lost is not None and beyond is not None and rule.is_beyond(lost, beyond):
        what = "rise" if rule.is_error else "loss"
        reason = f"{text}; the {what} is proven, on days that the champion was not fitted to"
        return GateResult(name, "failed", lost.value, beyond, reason, (lost.low, lost.high))
    return _not_shown(found, name, rule, f"{text}; all of it must be {bound}")


def _not_shown(found: SegmentFinding, name: str, rule: SegmentRule, why: str) -> GateResult:
    limit, value, ends = rule.limit(found.measure), None, None
    gap = None if found.measure is None else found.measure.difference
    if gap is not None and math.isfinite(gap.value):
        value, ends = gap.value, (gap.low, gap.high)
    if found.segment.required:
        return GateResult(name, "inconclusive", value, limit, f"not shown: {why}", ends)
    reason = f"not shown, and only reported (required: false): {why}"
    return GateResult(name, "passed", value, limit, reason, ends)


def _is_finite(found: Interval) -> bool:
    return all(map(math.isfinite, (found.value, found.low, found.high)))


def _ends(difference: Interval, parts: int, rule: SegmentRule) -> str:
    level = 100 * (1 - (1 - QUALITY_LEVEL) / parts)
    form = rule.form.replace(":", ":+")
    low, high = form.format(difference.low), form.format(difference.high)
    return f"{rule.text(difference.value, '+')} ({level:.4g} % interval {low} to {high})"


def segment_gates(
    definition: ModelDefinition,
    candidate: Candidate,
    dataset: TrainingSet,
    *,
    champion: Runnable | None,
    seed: int,
) -> tuple[GateResult, ...]:
    """The gates of the segments that model.yaml declares; empty without any."""
    if (policy := definition.gates.segments) is None:
        return ()
    days = dataset.holdout.share(candidate.customers).known
    first = 0 if champion is None else days.before(champion.bundle.data.holdout_from_ms)
    rule, parts = _rule(definition, policy), len(policy.groups)
    scores = _scores(definition, candidate, champion, days)
    compared = _comparison(definition, scores, days, seed=seed, parts=parts)
    inside = _inside(policy.groups, definition, candidate.bundle, days)
    counting = days.y == 1 if definition.task == "binary" else np.ones(len(days), np.bool_)

    def counts(flags: Flags) -> tuple[int, int]:
        return int((flags & counting).sum()), len(np.unique(days.matrix.unit[flags]))

    findings = [
        _finding(segment, flags, counts, compared, first, rule)
        for segment, flags in zip(policy.groups, inside, strict=True)
    ]
    return tuple(judge_segments(findings, rule))


def group_gates(
    definition: ModelDefinition,
    candidate: Candidate,
    dataset: TrainingSet,
    *,
    champion: Runnable | None,
    seed: int,
) -> tuple[GroupMeasures | None, tuple[GateResult, ...]]:
    """The measures of classes or numbers by the groups of protected attributes, and the gate on
    them where model.yaml declares one; nothing of two outcomes, whose own gates compare outcomes.
    """
    if definition.task == "binary" or not definition.protected:
        return None, ()
    days, number = (
        dataset.holdout.share(candidate.customers).known,
        definition.decision.scale.number,
    )
    policy, unit = definition.gates.fairness, "" if number is None else number.unit
    found = None
    if len(days):
        own, other = _scores(definition, candidate, champion, days)
        beside = None if other is None else _by_row(definition, other, days)
        found = group_measures(
            MeasuredRows(_by_row(definition, own, days), beside, days.matrix.unit),
            days.groups,
            {name: definition.request[name].values or () for name in days.groups},
            policy=policy,
            unit=unit,
            seed=seed,
        )
    judged = judge_group_errors(found, policy, unit)
    return found, () if judged is None else (judged,)


def _by_row(
    definition: ModelDefinition, scores: NDArray[np.float64], days: LabelledRows
) -> dict[str, NDArray[np.float64]]:
    """Measure → the number of each row whose mean it is."""
    if definition.classes:
        return {"accuracy": right_classes(scores, days.y)}
    return {"mae": absolute_errors(scores, days.y), "bias": scores - days.y}


def _rule(definition: ModelDefinition, policy: SegmentGates) -> SegmentRule:
    """The rule by the model's task: the measure that its own gates hold to its first version."""
    match policy:
        case ClassSegmentGates():
            drop, least, units = policy.accuracy_drop, MINIMUM_LABELLED, MINIMUM_UNITS
            return SegmentRule("accuracy", drop, least, "labels", units)
        case NumberSegmentGates():
            number = definition.decision.scale.number
            assert number is not None
            words, form, units = WORDS["mae"], "{:.4g}", MINIMUM_UNITS
            return SegmentRule(
                words, policy.mae_rise, MINIMUM_LABELLED, "labels", units, number.unit, form
            )
        case _:
            words, drop = "average precision", policy.average_precision_drop
            return SegmentRule(words, drop, MINIMUM_POSITIVES, "positives")


def _scores(
    definition: ModelDefinition,
    candidate: Candidate,
    champion: Runnable | None,
    days: LabelledRows,
) -> Scores:
    """The candidate's scores, and the champion's; NaN where the champion no longer gives any."""
    own, bundle = Runnable(candidate.bundle, candidate.model).raw(days), candidate.bundle
    if definition.task != "binary":
        own = bundle.calibrate_many(own)
    if champion is None:
        return own, None
    other: NDArray[np.float64] | None = None
    if definition.task != "binary":
        other = champion_scores(champion, days, bundle.scale)
    else:
        with suppress(InputInvalid):  # an input is no longer computed; `quality` reports it
            other = champion.raw(days)
    return own, np.full(own.shape, np.nan) if other is None else other


def _comparison(
    definition: ModelDefinition, scores: Scores, days: LabelledRows, *, seed: int, parts: int
) -> Callable[[Flags], Measure]:
    """The function that measures candidate and champion on some of the rows."""
    (own, other), y, unit = scores, days.y, days.matrix.unit

    def precision(flags: Flags) -> Measure:
        name, labels = "average_precision", y[flags]
        candidate = _point(average_precision(own[flags], labels))
        if other is None:
            return Measure(name, candidate)
        of_champion = _point(average_precision(other[flags], labels))
        difference = average_precision_interval(
            own[flags], labels, unit[flags], seed=seed, baseline=other[flags], parts=parts
        )
        return Measure(name, candidate, of_champion, difference)

    if definition.task == "binary":
        return precision
    name, of_rows = ("accuracy", right_classes) if definition.classes else ("mae", absolute_errors)
    values, beside = of_rows(own, y), None if other is None else of_rows(other, y)
    bounds = (0.0, 1.0) if definition.classes else None

    def mean(flags: Flags) -> Measure:
        champion = None if beside is None else beside[flags]
        return mean_measure(
            name,
            values[flags],
            unit[flags],
            seed=seed,
            champion=champion,
            bounds=bounds,
            parts=parts,
        )

    return mean


def _point(value: float) -> Interval:
    return Interval(value, math.nan, math.nan)


def _inside(
    groups: Sequence[ValidatedSegment],
    definition: ModelDefinition,
    bundle: Bundle,
    days: LabelledRows,
) -> Iterator[Flags]:
    """Whether each row lies in a segment, one segment after the other. Rows tell no empty text
    from a missing one."""
    inputs = readable(definition)
    for segment in groups:
        name = segment.input or segment.field or ""
        if segment.field is not None and segment.field not in definition.protected:
            name = inputs[segment.field]
        column = held_out_columns([name], definition, bundle, days)[name]
        if column.dtype == object:
            yield segment.holds([word or None for word in column])
        else:
            yield segment.holds(column)


def _finding(
    segment: ValidatedSegment,
    inside: Flags,
    counts: Callable[[Flags], tuple[int, int]],
    compared: Callable[[Flags], Measure],
    first: int,
    rule: SegmentRule,
) -> SegmentFinding:
    """Args: first: the number of rows that the champion was fitted to."""
    rows, (counted, units) = int(inside.sum()), counts(inside)
    if counted < rule.least or units < rule.units:
        return SegmentFinding(segment, rows, counted, units)
    measure = compared(inside)
    if not first:
        return SegmentFinding(segment, rows, counted, units, measure, measure)
    later = inside & (np.arange(len(inside)) >= first)
    labels, customers = counts(later)
    enough = labels >= rule.least and customers >= rule.units
    unseen = compared(later) if enough else None
    return SegmentFinding(segment, rows, counted, units, measure, unseen)
