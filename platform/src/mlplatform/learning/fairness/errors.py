"""Errors that a model of classes or of numbers makes in the groups of protected attributes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mlplatform.learning.fairness import intervals
from mlplatform.learning.fairness.comparison import (
    ERROR_SHARE,
    Comparison,
    by_attribute,
    comparisons,
    judge_groups,
)
from mlplatform.learning.fairness.intervals import NOTHING, Share
from mlplatform.learning.validation.gate_result import (
    MINIMUM_LABELLED,
    GateResult,
)
from mlplatform.learning.validation.group_findings import (
    GroupMeasures,
    MeasuredGroup,
    ProtectedAttribute,
)
from mlplatform.learning.validation.measures import Measure, mean_measure
from mlplatform.learning.validation.statistics import (
    MINIMUM_UNITS,
    QUALITY_LEVEL,
    Floats,
    Integers,
    Interval,
)
from mlplatform.model.policies.segments import FairnessPolicy, Flags

MEASURED_BY: Final = {
    "accuracy_difference": "accuracy",
    "mae_ratio": "mae",
    "bias_difference": "bias",
}
"""Key of a limit in model.yaml → the measure that is compared."""


@dataclass(frozen=True, slots=True)
class MeasuredRows:
    """Labelled rows with numbers whose means are the measures of the model's task.

    Args:
        own: measure → the candidate's number of each row: of `accuracy` whether the class was
            right, of `mae` and `bias` the distance from the label, and with its side.
        champion: the same of the champion, on the same rows; None without one.
        unit: the unit of assignment of each row.
    """

    own: Mapping[str, Floats]
    champion: Mapping[str, Floats] | None
    unit: Integers

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of what groups are compared by."""
        return tuple(key for key, name in MEASURED_BY.items() if name in self.own)


def group_measures(
    rows: MeasuredRows,
    groups: Mapping[str, Integers],
    values: Mapping[str, Sequence[str]],
    *,
    policy: FairnessPolicy | None,
    unit: str = "",
    seed: int,
) -> GroupMeasures:
    """The measures by the groups of each attribute.

    Args:
        groups: attribute → for each row, the position of its group in `values`, [n]; -1 if it is
            not known.
        policy: limits and reference groups; None: the largest group is the reference.
        unit: unit of a model's numbers; empty for classes.
    """
    parts = comparisons(groups, len(rows.keys if policy is None else policy.limits))
    level = 1 - 2 * ERROR_SHARE / parts

    def find(named: Mapping[str, Flags], reference: str) -> tuple[MeasuredGroup, ...]:
        return _groups(rows, named, reference, parts, seed)

    attributes = by_attribute(groups, values, policy, find)
    return GroupMeasures(len(rows.unit), level, unit, attributes)


def _groups(
    rows: MeasuredRows, named: Mapping[str, Flags], reference: str, parts: int, seed: int
) -> tuple[MeasuredGroup, ...]:
    means = {
        group: {
            MEASURED_BY[key]: _compared_mean(rows, MEASURED_BY[key], inside, parts, seed)
            for key in rows.keys
        }
        for group, inside in named.items()
    }
    nothing = dict.fromkeys(MEASURED_BY.values(), NOTHING)
    beside = means.get(reference, nothing)
    return tuple(
        MeasuredGroup(
            group=group,
            rows=int(inside.sum()),
            units=len(np.unique(rows.unit[inside])),
            measures=tuple(_measure(rows, name, inside, seed) for name in rows.own),
            compared={}
            if group == reference
            else {
                key: _comparison(key, means[group][name], beside[name])
                for key, name in MEASURED_BY.items()
                if key in rows.keys
            },
        )
        for group, inside in named.items()
    )


def _comparison(key: str, own: Interval, other: Interval) -> Interval:
    """A group's mean beside the reference group's; without ends where one of both has none."""
    found = intervals.ratio if key == "mae_ratio" else intervals.difference
    if math.isnan(own.low) or math.isnan(other.low):
        nearly = found(*(Interval(one.value, one.value, one.value) for one in (own, other)))
        return Interval(nearly.value, math.nan, math.nan)
    return found(own, other)


def _compared_mean(rows: MeasuredRows, name: str, inside: Flags, parts: int, seed: int) -> Interval:
    """The mean in a group, by which it is compared; a small group's has no ends."""
    unit = rows.unit[inside]
    if len(unit) >= MINIMUM_LABELLED and len(np.unique(unit)) >= MINIMUM_UNITS:
        return _mean(rows, name, inside, parts, seed)
    value = float(rows.own[name][inside].mean()) if len(unit) else math.nan
    return Interval(value, math.nan, math.nan)


def _mean(rows: MeasuredRows, name: str, inside: Flags, parts: int, seed: int) -> Interval:
    """The mean in a group; the error of its interval is a part of that of one."""
    found = rows.own[name]
    if not np.isfinite(found[inside]).all():
        return NOTHING
    if name == "accuracy":
        level = 1 - (1 - QUALITY_LEVEL) / parts
        return Share.of(found > 0, inside, rows.unit).interval(level)
    mean = mean_measure(name, found[inside], rows.unit[inside], seed=seed, parts=parts)
    return mean.candidate


def _measure(rows: MeasuredRows, name: str, inside: Flags, seed: int) -> Measure:
    """A measure in a group, beside the champion's."""
    own = _mean(rows, name, inside, 1, seed)
    if rows.champion is None:
        return Measure(name, own)
    beside = mean_measure(
        name,
        rows.own[name][inside],
        rows.unit[inside],
        seed=seed,
        champion=rows.champion[name][inside],
        bounds=(0.0, 1.0) if name == "accuracy" else None,
    )
    return Measure(name, own, beside.champion, beside.difference)


def judge_group_errors(
    found: GroupMeasures | None, policy: FairnessPolicy | None, unit: str = ""
) -> GateResult | None:
    """The gate on fairness of a model of classes or of numbers; None if model.yaml declares none.

    Args:
        found: None if no request has a label.
        unit: unit of the model's numbers.
    """
    if policy is None:
        return None
    attributes = () if found is None else found.attributes
    compared = [
        one
        for attribute in attributes
        for group in attribute.groups
        if group.group != attribute.reference
        for one in _comparisons(attribute, group, policy, unit)
    ]
    return judge_groups(compared, attributes, policy)


def _comparisons(
    attribute: ProtectedAttribute[MeasuredGroup],
    group: MeasuredGroup,
    policy: FairnessPolicy,
    unit: str,
) -> Iterator[Comparison]:
    who, against, rows = f"{attribute.attribute} {group.group}", attribute.reference, group.rows
    for key, limit in policy.limits.items():
        found = group.compared[key]
        match key:
            case "mae_ratio":
                what = f"mean absolute error of {who}"
                yield Comparison(what, against, found, limit, rows, most=limit)
            case "bias_difference":
                yield Comparison(
                    what=f"bias of {who}, in {unit}",
                    against=against,
                    found=found,
                    limit=limit,
                    rows=rows,
                    least=-limit,
                    most=limit,
                    form="{:+.4g}",
                    relation="beside that of",
                    allowed=f"{-limit:+g} to {limit:+g}",
                )
            case _:
                yield Comparison(
                    what=f"accuracy of {who}",
                    against=against,
                    found=found,
                    limit=limit,
                    rows=rows,
                    least=-limit,
                    form="{:+.3f}",
                    relation="beside that of",
                    allowed=f"{-limit:+g} or more",
                )
