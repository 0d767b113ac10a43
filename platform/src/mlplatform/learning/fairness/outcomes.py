"""Effects of a binary model's decisions on the groups of protected attributes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.fairness.comparison import (
    ERROR_SHARE,
    Comparison,
    by_attribute,
    comparisons,
    judge_groups,
)
from mlplatform.learning.fairness.intervals import (
    NO_ROWS,
    NOTHING,
    Share,
    mean_interval,
    share_ratio,
)
from mlplatform.learning.validation.gate_result import GateResult
from mlplatform.learning.validation.group_findings import (
    Fairness,
    GroupFairness,
)
from mlplatform.learning.validation.statistics import Integers
from mlplatform.model.policies.segments import FairnessPolicy, Flags

Floats = NDArray[np.float64]

FOUR_FIFTHS: Final = 0.8
"""Below this share of the best group's favourable outcomes, evidence of adverse impact.
Source: Uniform Guidelines on Employee Selection Procedures, 29 CFR 1607.4(D). Information only."""


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
    limits = 1 if policy is None else len(policy.limits)
    level = 1 - 2 * ERROR_SHARE / comparisons(groups, limits)

    def find(named: Mapping[str, Flags], reference: str) -> tuple[GroupFairness, ...]:
        return _groups(rows, named, reference, level)

    attributes = by_attribute(groups, values, policy, find)
    return Fairness(adverse, len(rows.y), level, attributes)


def _groups(
    rows: GroupRows, named: Mapping[str, Flags], reference: str, level: float
) -> tuple[GroupFairness, ...]:
    every = {group: Share.of(rows.adverse, inside, rows.unit) for group, inside in named.items()}
    negative = rows.known & (rows.y == 0)
    false = {
        group: Share.of(rows.adverse, inside & negative, rows.unit)
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
                true_positive_rate=Share.of(
                    rows.adverse, known & (rows.y == 1), rows.unit
                ).interval(),
                false_positive_rate=false[group].interval(),
                mean_score=float(scores.mean()) if len(scores) else math.nan,
                observed=Share.of(rows.y == 1, known, rows.unit).interval(),
                calibration_gap=mean_interval(scores - y, unit),
                favourable_ratio=(1 - every[group].value) / best if best > 0 else math.nan,
                adverse_share_ratio=share_ratio(every[group], every.get(reference, NO_ROWS), level)
                if is_other
                else None,
                false_positive_ratio=share_ratio(false[group], false.get(reference, NO_ROWS), level)
                if is_other
                else None,
            )
        )
    return tuple(found)


def judge_fairness(fairness: Fairness | None, policy: FairnessPolicy | None) -> GateResult | None:
    """The gate on fairness: whether each group keeps the declared limits; None if model.yaml
    declares none."""
    if policy is None:
        return None
    attributes = () if fairness is None else fairness.attributes
    compared = [
        Comparison(
            what=f"{WORDS[key]} of {attribute.attribute} {group.group}",
            against=attribute.reference,
            found=getattr(group, key) or NOTHING,
            limit=limit,
            rows=group.rows,
            most=limit,
        )
        for attribute in attributes
        for group in attribute.groups
        if group.group != attribute.reference
        for key, limit in policy.limits.items()
    ]
    return judge_groups(compared, attributes, policy)


WORDS: Final = {
    "adverse_share_ratio": "share of adverse outcomes",
    "false_positive_ratio": "share of adverse outcomes among good ones",
}
