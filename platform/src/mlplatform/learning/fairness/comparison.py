"""The gate on the groups of protected attributes, each beside a reference group."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mlplatform.learning.validation.gate_result import GateResult, Verdict
from mlplatform.learning.validation.group_findings import (
    Findings_co,
    GroupFairness,
    MeasuredGroup,
    ProtectedAttribute,
)
from mlplatform.learning.validation.statistics import Integers, Interval
from mlplatform.model.policies.segments import FairnessPolicy, Flags

NAME: Final = "fairness"
ERROR_SHARE: Final = 0.05
"""Error share of the gate: that a group within the limit fails it, or one beyond it passes. All
comparisons of all attributes share it (Bonferroni, decision 0079)."""
ORDER: Final = {"passed": 0, "inconclusive": 1, "failed": 2}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One group beside the reference group, by one measure.

    Args:
        what: the measure and the group, in words.
        found: the ratio or the difference; without ends if a group is too small to have any.
        limit: the declared limit, more than 0.
        least, most: the ends of what is allowed.
        form, relation: the form of a value, and what it is of the reference group's.
        allowed: what is allowed, in words; empty: at most the limit.
    """

    what: str
    against: str
    found: Interval
    limit: float
    rows: int
    least: float = -math.inf
    most: float = math.inf
    form: str = "{:.2f}"
    relation: str = "times that of"
    allowed: str = ""

    @property
    def verdict(self) -> Verdict:
        """Failed where all of the interval is beyond an end of what is allowed; passed where all of
        it is within."""
        found = self.found
        if math.isnan(found.low):
            return "inconclusive"
        if found.low > self.most or found.high < self.least:
            return "failed"
        is_within = found.high <= self.most and found.low >= self.least
        return "passed" if is_within else "inconclusive"

    @property
    def severity(self) -> tuple[int, float]:
        """Verdict, then how much of the limit the value is; the more the worse."""
        value = 0.0 if math.isnan(self.found.value) else self.found.value
        used = abs(value) if math.isfinite(self.least) and math.isfinite(self.most) else value
        used = -value if self.most == math.inf else used
        return ORDER[self.verdict], used / self.limit

    @property
    def text(self) -> str:
        """The comparison in words."""
        found, form = self.found, self.form
        value, within = "not measured", ""
        if math.isfinite(found.high):
            within = f" (interval {form.format(found.low)} to {form.format(found.high)})"
        if not math.isnan(found.value):
            value = f"{form.format(found.value)} {self.relation} {self.against}"
        if found.high == math.inf:  # next to nothing of the reference is adverse
            value = f"{form.format(found.low)} {self.relation} {self.against} or more"
        allowed = self.allowed or f"at most {self.limit:g}"
        return f"{self.what}: {value}{within}, {allowed} allowed, on {self.rows:,} requests"


def comparisons(groups: Mapping[str, Integers], limits: int) -> int:
    """The number of comparisons that share the gate's error, 1 or more.

    Args:
        groups: attribute → for each row, the position of its group, [n]; -1 if it is not known.
        limits: number of declared limits.
    """
    others = sum(max(0, len(_occurring(places)) - 1) for places in groups.values())
    return max(1, limits) * max(1, others)


def by_attribute(
    groups: Mapping[str, Integers],
    values: Mapping[str, Sequence[str]],
    policy: FairnessPolicy | None,
    find: Callable[[Mapping[str, Flags], str], tuple[Findings_co, ...]],
) -> tuple[ProtectedAttribute[Findings_co], ...]:
    """The findings on the groups of each attribute that occur.

    Args:
        groups: attribute → for each row, the position of its group in `values`, [n]; -1 if it is
            not known.
        policy: reference groups; None, or an attribute without one: the largest group is it.
        find: function from the rows of each group and the name of the reference group, which is
            empty if there is none.
    """
    found = []
    for name, places in groups.items():
        named = {values[name][place]: places == place for place in _occurring(places)}
        reference = max(named, key=lambda group: int(named[group].sum()), default="")
        if policy is not None:
            reference = policy.reference.get(name, reference)
        unknown = int((places < 0).sum())
        found.append(ProtectedAttribute(name, reference, unknown, find(named, reference)))
    return tuple(found)


def _occurring(places: Integers) -> list[int]:
    return [int(place) for place in np.unique(places[places >= 0])]


def judge_groups(
    compared: Sequence[Comparison],
    attributes: Sequence[ProtectedAttribute[GroupFairness | MeasuredGroup]],
    policy: FairnessPolicy,
) -> GateResult:
    """Whether each group keeps the declared limits.

    Failed where a group is proven to be beyond a limit; passed where each is shown to be within;
    else inconclusive or only reported, as `not_shown` says.
    """
    alone = [
        one.attribute for one in attributes if all(g.group == one.reference for g in one.groups)
    ]
    if not compared or (alone and all(one.verdict == "passed" for one in compared)):
        by = f" by {', '.join(alone)}" if alone else ""
        why = f"no request of a second group is known{by}: nothing can be compared"
        tightest = min(policy.limits.values())
        return GateResult(NAME, _unshown(policy), None, tightest, _with_note(why, policy))
    worst = max(compared, key=lambda one: one.severity)
    found, reason = worst.found, worst.text
    value = None if math.isnan(found.value) else found.value
    ends = (found.low, found.high) if math.isfinite(found.high) else None
    if unknown := max(one.unknown for one in attributes):
        reason += f"; the group of {unknown:,} requests is not known"
    if worst.verdict == "inconclusive":
        open_ones = sum(one.verdict == "inconclusive" for one in compared)
        noted = f"not shown for {open_ones} of {len(compared)} comparisons; {reason}"
        noted = _with_note(noted, policy)
        return GateResult(NAME, _unshown(policy), value, worst.limit, noted, ends)
    return GateResult(NAME, worst.verdict, value, worst.limit, reason, ends)


def _unshown(policy: FairnessPolicy) -> Verdict:
    return "inconclusive" if policy.not_shown == "refuse" else "passed"


def _with_note(reason: str, policy: FairnessPolicy) -> str:
    return (
        reason
        if policy.not_shown == "refuse"
        else f"{reason} (reported only: gates.fairness.not_shown)"
    )
