"""Effects of a binary model's decisions on the groups of protected attributes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.validation.gate_result import GateResult, Verdict
from mlplatform.learning.validation.statistics import QUALITY_LEVEL, Integers, Interval
from mlplatform.model.policies.segments import FairnessPolicy
from mlplatform.runtime.intervals import exact_share

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]

ERROR_SHARE: Final = 0.05
"""Error share of the gate: that a group within the limit fails it, or one beyond it passes. All
comparisons of all attributes share it (Bonferroni, decision 0079)."""
LEAST_UNITS: Final = 30
"""Least number of units of a group; a smaller group shows nothing, because its variance tells too
little."""
FOUR_FIFTHS: Final = 0.8
"""Below this share of the best group's favourable outcomes, evidence of adverse impact.
Source: Uniform Guidelines on Employee Selection Procedures, 29 CFR 1607.4(D). Information only."""
NOTHING: Final = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class GroupRows:
    """Judged rows with their decisions, and whether each outcome is known.

    Args:
        scores: calibrated scores, 0 to 1.
        adverse: whether the decision was an adverse outcome.
        known: whether the outcome is known, because no decision hid it; `y` counts only for these
            rows.
    """

    scores: Floats
    y: Integers
    adverse: Flags
    known: Flags
    unit: Integers


@dataclass(frozen=True, slots=True)
class GroupFairness:
    """The shares of one group, each with a 90 % interval by unit; ratios share the gate's error.

    Args:
        units: number of whole customers, on which the intervals are based.
        positives: number of positives among the `known` rows. Both rates, the mean score and the
            observed share are of these rows too.
        true_positive_rate, false_positive_rate: share of adverse outcomes among rows with label 1,
            and among rows with label 0.
        calibration_gap: mean score minus the observed share of positives.
        favourable_ratio: share of rows without an adverse outcome, divided by that of the group
            with the largest such share.
        adverse_share_ratio, false_positive_ratio: the group's share divided by the reference
            group's; None for the reference group.
    """

    group: str
    rows: int
    units: int
    known: int
    positives: int
    adverse_share: Interval
    true_positive_rate: Interval
    false_positive_rate: Interval
    mean_score: float
    observed: Interval
    calibration_gap: Interval
    favourable_ratio: float
    adverse_share_ratio: Interval | None
    false_positive_ratio: Interval | None


@dataclass(frozen=True, slots=True)
class AttributeFairness:
    """The groups of one protected attribute that occur, and the rows whose group is unknown.

    Args:
        reference: the reference group; empty if no group occurs and none is declared.
    """

    attribute: str
    reference: str
    unknown: int
    groups: tuple[GroupFairness, ...]


@dataclass(frozen=True, slots=True)
class Fairness:
    """All protected attributes on the days for the gates.

    Args:
        adverse: the outcomes that count as adverse.
        ratio_level: confidence level of the intervals of ratios, 0 to 1.
    """

    adverse: tuple[str, ...]
    rows: int
    ratio_level: float
    attributes: tuple[AttributeFairness, ...]


def fairness_of(
    rows: GroupRows,
    groups: Mapping[str, Integers],
    values: Mapping[str, Sequence[str]],
    *,
    adverse: tuple[str, ...],
    policy: FairnessPolicy | None,
) -> Fairness:
    """The fairness of decisions by the groups of each attribute.

    Args:
        groups: attribute → for each row, the position of its group in `values`, [n]; -1 if it is
            not known.
        policy: limits and reference groups; None: the largest group is the reference.
    """
    found = {name: np.unique(places[places >= 0]).tolist() for name, places in groups.items()}
    limits = 1 if policy is None else max(1, len(_limits(policy)))
    compared = limits * max(1, sum(max(0, len(places) - 1) for places in found.values()))
    level = 1 - 2 * ERROR_SHARE / compared
    attributes = []
    for name, places in found.items():
        named = {values[name][place]: groups[name] == place for place in places}
        largest = max(named, key=lambda group: int(named[group].sum()), default="")
        reference = largest if policy is None else policy.reference.get(name, largest)
        unknown = int((groups[name] < 0).sum())
        parts = _groups(rows, named, reference, level)
        attributes.append(AttributeFairness(name, reference, unknown, parts))
    return Fairness(adverse, len(rows.y), level, tuple(attributes))


def _groups(
    rows: GroupRows, named: Mapping[str, Flags], reference: str, level: float
) -> tuple[GroupFairness, ...]:
    every = {group: _Share.of(rows.adverse, inside, rows.unit) for group, inside in named.items()}
    negative = rows.known & (rows.y == 0)
    false = {
        group: _Share.of(rows.adverse, inside & negative, rows.unit)
        for group, inside in named.items()
    }
    best = max((1 - share.value for share in every.values()), default=math.nan)
    found = []
    for group, inside in named.items():
        known = inside & rows.known
        is_other = group != reference
        y, scores, unit = rows.y[known].astype(np.float64), rows.scores[known], rows.unit[known]
        found.append(
            GroupFairness(
                group=group,
                rows=int(inside.sum()),
                units=every[group].units,
                known=int(known.sum()),
                positives=int(y.sum()),
                adverse_share=every[group].interval(),
                true_positive_rate=_Share.of(
                    rows.adverse, known & (rows.y == 1), rows.unit
                ).interval(),
                false_positive_rate=false[group].interval(),
                mean_score=float(scores.mean()) if len(scores) else math.nan,
                observed=_Share.of(rows.y == 1, known, rows.unit).interval(),
                calibration_gap=_mean_interval(scores - y, unit),
                favourable_ratio=(1 - every[group].value) / best if best > 0 else math.nan,
                adverse_share_ratio=_ratio(every[group], every.get(reference, NO_ROWS), level)
                if is_other
                else None,
                false_positive_ratio=_ratio(false[group], false.get(reference, NO_ROWS), level)
                if is_other
                else None,
            )
        )
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Share:
    """A share of rows, with the numbers of equal rows and units that would make it as uncertain.

    Args:
        units: number of whole units.
        size: number of rows, each of another unit, that would give the same uncertainty.
        even_units: number of units with equally many rows that would give the same uncertainty.
    """

    hits: float
    rows: int
    units: int
    size: float
    even_units: float

    @staticmethod
    def of(flags: Flags, inside: Flags, unit: Integers) -> _Share:
        """The share of flagged rows among those inside.

        Source: Cochran, Sampling Techniques, 3rd ed., section 6.8 (ratio over clusters).
        """
        rows, hits = int(inside.sum()), float(flags[inside].sum())
        if rows == 0:
            return NO_ROWS
        p, unit = hits / rows, unit[inside]
        residual, each = _unit_sums(flags[inside] - p, unit), _unit_sums(None, unit)
        units = len(each)
        by_unit = units / max(1, units - 1) * float(np.sum(residual**2)) / rows**2
        by_row = p * (1 - p) / rows
        size = rows * min(1.0, by_row / by_unit) if by_unit > 0 else float(units)
        return _Share(hits, rows, units, size, rows**2 / float(np.sum(each**2)))

    @property
    def value(self) -> float:
        return self.hits / self.rows if self.rows else math.nan

    def interval(self, level: float = QUALITY_LEVEL) -> Interval:
        """The interval of a binomial share of `size` rows, wider where few units show
        their variance.

        Source: Korn and Graubard, Survey Methodology 24 (1998).
        """
        if self.rows == 0:
            return NOTHING
        if self.even_units <= 1:
            return Interval(self.value, 0.0, 1.0)
        tail = (1 - level) / 2
        size = self.size * (_normal(1 - tail) / _student(1 - tail, self.even_units - 1)) ** 2
        ends = exact_share(self.value * size, (1 - self.value) * size, 1 - level)
        return Interval(self.value, *ends)


NO_ROWS: Final = _Share(0.0, 0, 0, 0.0, 0.0)


def _ratio(share: _Share, other: _Share, level: float) -> Interval:
    """A share over another one, from the ends of both; no ends where a group is too small to have
    any, and an infinite high end where the other share may be zero.

    Source: Newcombe, MOVER-R confidence intervals for ratios (Stat. Methods Med. Res. 25, 2016).
    """
    value = share.value / other.value if other.rows and other.hits else math.nan
    if min(share.units, other.units) < LEAST_UNITS:
        return Interval(value, math.nan, math.nan)
    one, two = share.interval(level), other.interval(level)
    product = one.value * two.value
    least, most = (end * (2 * one.value - end) for end in (one.low, one.high))
    other_least, other_most = (end * (2 * two.value - end) for end in (two.low, two.high))
    divisor = product + math.sqrt(max(0.0, product**2 - least * other_most))
    low = least / divisor if divisor > 0 else 0.0
    root = math.sqrt(max(0.0, product**2 - most * other_least))
    high = (product + root) / other_least if other_least > 0 else math.inf
    return Interval(value, low, high)


def _mean_interval(values: Floats, unit: Integers) -> Interval:
    if not len(values):
        return NOTHING
    mean = float(values.mean())
    residual, each = _unit_sums(values - mean, unit), _unit_sums(None, unit)
    units = len(residual)
    if units < 2:
        return Interval(mean, math.nan, math.nan)
    error = math.sqrt(units / (units - 1) * float(np.sum(residual**2))) / len(values)
    even = len(values) ** 2 / float(np.sum(each**2))
    half = _student((1 + QUALITY_LEVEL) / 2, even - 1) * error
    return Interval(mean, mean - half, mean + half)


def _unit_sums(values: Any, unit: Integers) -> Floats:
    """The sum of each unit's values; None: the number of its rows."""
    position = np.unique(unit, return_inverse=True)[1]
    return np.bincount(position, values).astype(np.float64)


def _normal(share: float) -> float:
    from scipy.special import ndtri  # slow to import; most processes judge nothing

    return float(ndtri(share))


def _student(share: float, freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))


def judge_fairness(fairness: Fairness | None, policy: FairnessPolicy | None) -> GateResult | None:
    """The gate on fairness: whether each group keeps the declared limits; None if model.yaml
    declares none.

    Failed where a group is proven to be beyond a limit; passed where each is shown to be within;
    else inconclusive or only reported, as `not_shown` says.
    """
    if policy is None:
        return None
    name, limits = "fairness", _limits(policy)
    tightest = min(limits.values())
    others = [
        (f"{attribute.attribute} {group.group}", attribute.reference, group)
        for attribute in (() if fairness is None else fairness.attributes)
        for group in attribute.groups
        if group.group != attribute.reference
    ]
    judged = [
        (*_verdict_of(getattr(group, key), limit), f"{WORDS[key]} of {who}", against, limit, group)
        for who, against, group in others
        for key, limit in limits.items()
    ]
    open_attributes = [
        attribute.attribute
        for attribute in (() if fairness is None else fairness.attributes)
        if all(group.group == attribute.reference for group in attribute.groups)
    ]
    if not judged or (open_attributes and all(one[0] == "passed" for one in judged)):
        by = f" by {', '.join(open_attributes)}" if open_attributes else ""
        reason = f"no request of a second group is known{by}: nothing can be compared"
        return GateResult(name, _unshown(policy), None, tightest, _with_note(reason, policy))
    worst = max(judged, key=lambda one: (ORDER[one[0]], _or_zero(one[1].value)))
    verdict, ratio, what, against, limit, group = worst
    value = None if math.isnan(ratio.value) else ratio.value
    ends = (ratio.low, ratio.high) if math.isfinite(ratio.high) else None
    found = "not measured" if value is None else f"{value:.2f} times that of {against}"
    within = "" if ends is None else f" (interval {ends[0]:.2f} to {ends[1]:.2f})"
    if ratio.high == math.inf:  # next to nothing of the reference is adverse
        found, within = f"{ratio.low:.2f} times that of {against} or more", ""
    reason = f"{what}: {found}{within}, at most {limit:g} allowed, on {group.rows:,} requests"
    if fairness is not None and (unknown := max(a.unknown for a in fairness.attributes)):
        reason += f"; the group of {unknown:,} requests is not known"
    if verdict == "inconclusive":
        open_ones = [one[2] for one in judged if one[0] == "inconclusive"]
        reason = f"not shown for {len(open_ones)} of {len(judged)} comparisons; {reason}"
        return GateResult(name, _unshown(policy), value, limit, _with_note(reason, policy), ends)
    return GateResult(name, verdict, value, limit, reason, ends)


WORDS: Final = {
    "adverse_share_ratio": "share of adverse outcomes",
    "false_positive_ratio": "share of adverse outcomes among good ones",
}
ORDER: Final = {"passed": 0, "inconclusive": 1, "failed": 2}


def _limits(policy: FairnessPolicy) -> dict[str, float]:
    found = {key: getattr(policy, key) for key in WORDS}
    return {key: limit for key, limit in found.items() if limit is not None}


def _verdict_of(ratio: Interval | None, limit: float) -> tuple[Verdict, Interval]:
    if ratio is None or math.isnan(ratio.low):
        return "inconclusive", ratio or NOTHING
    if ratio.low > limit:
        return "failed", ratio
    return ("passed" if ratio.high <= limit else "inconclusive"), ratio


def _unshown(policy: FairnessPolicy) -> Verdict:
    return "inconclusive" if policy.not_shown == "refuse" else "passed"


def _with_note(reason: str, policy: FairnessPolicy) -> str:
    return (
        reason
        if policy.not_shown == "refuse"
        else f"{reason} (reported only: gates.fairness.not_shown)"
    )


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value
