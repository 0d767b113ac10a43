"""Findings_co on the groups of protected attributes: the outcomes, or the errors, that they get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from mlplatform.learning.validation.measures import Measure
from mlplatform.learning.validation.statistics import Interval


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
class MeasuredGroup:
    """The measures in one group, with 90 % intervals by unit.

    Args:
        units: number of whole customers, on which the intervals are based.
        measures: beside the champion's on the same rows, where there is one.
        compared: key of a limit → the comparison with the reference group, which shares
            the gate's error; without ends if one of both is too small. Empty for the reference.
    """

    group: str
    rows: int
    units: int
    measures: tuple[Measure, ...]
    compared: Mapping[str, Interval] = field(default_factory=dict)


Findings_co = TypeVar("Findings_co", bound=GroupFairness | MeasuredGroup, covariant=True)


@dataclass(frozen=True, slots=True)
class ProtectedAttribute(Generic[Findings_co]):
    """The groups of one protected attribute that occur, and the rows whose group is unknown.

    Args:
        reference: the reference group; empty if no group occurs and none is declared.
    """

    attribute: str
    reference: str
    unknown: int
    groups: tuple[Findings_co, ...]


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
    attributes: tuple[ProtectedAttribute[GroupFairness], ...]


@dataclass(frozen=True, slots=True)
class GroupMeasures:
    """All protected attributes on the held-out days.

    Args:
        rows: number of labelled requests.
        level: confidence level of the intervals of comparisons, 0 to 1.
        unit: unit of a model's numbers, as people write it; empty for classes.
    """

    rows: int
    level: float
    unit: str
    attributes: tuple[ProtectedAttribute[MeasuredGroup], ...]
