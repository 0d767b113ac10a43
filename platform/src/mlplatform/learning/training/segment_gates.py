"""Gates on segments of the held-out requests: the candidate beside the champion in each of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.training.candidate import Candidate
from mlplatform.learning.training.evaluate import Runnable
from mlplatform.learning.training.own_gates import held_out_columns
from mlplatform.learning.training_sets.dataset import Dataset, LabelledRows
from mlplatform.learning.validation.gate_result import OF_A_SEGMENT, GateResult
from mlplatform.learning.validation.gates import MINIMUM_POSITIVES
from mlplatform.learning.validation.statistics import (
    QUALITY_LEVEL,
    Interval,
    average_precision,
    average_precision_interval,
)
from mlplatform.model.bundle import Bundle
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.policies.segments import Flags, SegmentGates, ValidatedSegment
from mlplatform.model.segment_rules import readable
from mlplatform.runtime.errors import InputInvalid


@dataclass(frozen=True, slots=True)
class SegmentFinding:
    """Average precision in one segment of the held-out days; a difference is candidate less
    champion.

    Args:
        champion, difference: None for a first version; NaN if the champion can't be run any more.
        unseen: the difference on days to which the champion was not fitted; None if these hold too
            few positives.
    """

    segment: ValidatedSegment
    rows: int
    positives: int
    candidate: float
    champion: float | None = None
    difference: Interval | None = None
    unseen: Interval | None = None


def judge_segments(
    findings: Sequence[SegmentFinding], policy: SegmentGates
) -> Iterator[GateResult]:
    """A gate for each segment. All of them share the error of one (decision 0152).

    A proven loss refuses the candidate. So does a segment that does not show what is tolerated,
    unless it is not required: that is told, and passes.
    """
    for found in findings:
        name, limit = f"{OF_A_SEGMENT}{found.segment.name}", -policy.average_precision_drop
        where = f"{found.rows:,} requests with {found.positives:,} positives"
        difference = found.difference
        if found.positives < MINIMUM_POSITIVES:
            lacking = f"{where}, {MINIMUM_POSITIVES} positives wanted"
            yield _not_shown(found, name, limit, lacking)
        elif difference is None:
            reason = f"average precision {found.candidate:.3f} on {where}; there is no champion yet"
            yield GateResult(name, "passed", found.candidate, None, reason)
        elif not all(map(math.isfinite, (difference.value, difference.low, difference.high))):
            yield _not_shown(found, name, limit, "the champion can't be compared on these requests")
        else:
            text = (
                f"average precision {found.candidate:.3f}, the champion's {found.champion:.3f} on "
                f"{where}; difference {_ends(difference, len(findings))}"
            )
            yield _judged(found, name, limit, text, difference)


def _judged(
    found: SegmentFinding, name: str, limit: float, text: str, difference: Interval
) -> GateResult:
    if difference.low >= limit:
        reason = f"{text}; all of it is {limit:+.3f} or more"
        ends = difference.low, difference.high
        return GateResult(name, "passed", difference.value, limit, reason, ends)
    proof = found.unseen
    if proof is not None and proof.high < limit:
        reason = f"{text}; the loss is proven, on days that the champion was not fitted to"
        return GateResult(name, "failed", proof.value, limit, reason, (proof.low, proof.high))
    return _not_shown(found, name, limit, f"{text}; all of it must be {limit:+.3f} or more")


def _not_shown(found: SegmentFinding, name: str, limit: float, why: str) -> GateResult:
    difference = found.difference
    value, ends = None, None
    if difference is not None and math.isfinite(difference.value):
        value, ends = difference.value, (difference.low, difference.high)
    if found.segment.required:
        return GateResult(name, "inconclusive", value, limit, f"not shown: {why}", ends)
    reason = f"not shown, and only reported (required: false): {why}"
    return GateResult(name, "passed", value, limit, reason, ends)


def _ends(difference: Interval, parts: int) -> str:
    level = 100 * (1 - (1 - QUALITY_LEVEL) / parts)
    ends = f"{difference.low:+.3f} to {difference.high:+.3f}"
    return f"{difference.value:+.3f} ({level:.4g} % interval {ends})"


def segment_gates(
    definition: ModelDefinition,
    candidate: Candidate,
    dataset: Dataset,
    *,
    champion: Runnable | None,
    seed: int,
) -> tuple[GateResult, ...]:
    """The gates of the segments that model.yaml declares; empty without any."""
    if (policy := definition.gates.segments) is None:
        return ()
    days = dataset.holdout.share(candidate.customers).known
    own = Runnable(candidate.bundle, candidate.model).raw(days)
    other, first = None, 0
    if champion is not None:
        first = days.before(champion.bundle.data.holdout_from_ms)
        try:
            other = champion.raw(days)
        except InputInvalid:  # an input is no longer computed; `quality` reports it
            other = np.full(len(days), np.nan)
    inside = _inside(policy.groups, definition, candidate.bundle, days)
    findings = [
        _finding(segment, flags, days, (own, other), first, seed=seed, parts=len(policy.groups))
        for segment, flags in zip(policy.groups, inside, strict=True)
    ]
    return tuple(judge_segments(findings, policy))


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
    days: LabelledRows,
    scores: tuple[NDArray[np.float64], NDArray[np.float64] | None],
    first: int,
    *,
    seed: int,
    parts: int,
) -> SegmentFinding:
    """Args: first: the number of rows that the champion was fitted to."""
    y, unit, (own, other) = days.y, days.matrix.unit, scores
    rows, positives = int(inside.sum()), int(y[inside].sum())
    if positives < MINIMUM_POSITIVES:
        return SegmentFinding(segment, rows, positives, math.nan)
    quality = average_precision(own[inside], y[inside])
    if other is None:
        return SegmentFinding(segment, rows, positives, quality)

    def compared(flags: Flags) -> Interval:
        return average_precision_interval(
            own[flags], y[flags], unit[flags], seed=seed, baseline=other[flags], parts=parts
        )

    difference = compared(inside)
    later = inside & (np.arange(len(inside)) >= first)
    unseen = difference if not first else None
    if first and int(y[later].sum()) >= MINIMUM_POSITIVES:
        unseen = compared(later)
    champion = math.nan if np.isnan(other).any() else average_precision(other[inside], y[inside])
    return SegmentFinding(segment, rows, positives, quality, champion, difference, unseen)
