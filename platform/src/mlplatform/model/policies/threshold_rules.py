"""Whether the thresholds that model.yaml declares fit its outcomes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

from mlplatform.model.policies.decision_scale import (
    DecisionPolicy,
    LabelCosts,
    ThresholdPolicy,
    ThresholdSegment,
)
from mlplatform.model.policies.real import RealDecision
from mlplatform.model.policies.values import Rule


def threshold_rules(decision: DecisionPolicy) -> Iterator[Rule]:
    policy, key = decision.thresholds, "decision.thresholds"
    ways: list[ThresholdPolicy | ThresholdSegment] = [policy, *policy.segments]
    yield from _way(policy, key, decision.outcomes)
    for number, segment in enumerate(policy.segments):
        yield from _way(segment, f"{key}.segments.{number}", decision.outcomes)
    wanted = "a currency, and only where costs are given"
    has_costs = any(way.costs is not None for way in ways)
    yield (policy.currency is not None) == has_costs, f"{key}.currency", policy.currency, wanted
    needed = policy.shares is None or bool(policy.segments)
    wanted = "a share of requests (0-1)" if needed else "nothing: the shares of alerts say it"
    yield needed == (decision.capacity is not None), "decision.capacity", decision.capacity, wanted


def _way(
    policy: ThresholdPolicy | ThresholdSegment, key: str, outcomes: tuple[str, ...]
) -> Iterator[Rule]:
    """Rules of the one way by which thresholds are given: shares, scores or costs."""
    first, *others = outcomes
    rules = {"shares": policy.shares, "scores": policy.scores, "costs": policy.costs}
    named = [name for name, values in rules.items() if values is not None]
    yield len(named) == 1, key, named, "one of shares, scores, costs"
    for name in named:
        wanted_names = [first, *others] if name == "costs" else others
        whole = set(rules[name] or ()) == set(wanted_names)
        yield whole, f"{key}.{name}", list(rules[name] or ()), f"each of {', '.join(wanted_names)}"
    for name, share in (policy.shares or {}).items():
        yield 0 < share < 1, f"{key}.shares.{name}", share, "more than 0 and less than 1"
    total = math.fsum((policy.shares or {}).values())
    yield total <= 1 + 1e-9, f"{key}.shares", f"{total:g} in all", "at most 1 in all"
    begins = [(policy.scores or {}).get(name, 0.0) for name in others]
    yield begins == sorted(begins), f"{key}.scores", begins, "scores that do not fall"
    yield from _costs(policy.costs or {}, f"{key}.costs", outcomes)


def number_rules(decision: RealDecision) -> Iterator[Rule]:
    """Rules of a model of numbers: its range, and the number from which each outcome is given."""
    number, (first, *others), key = decision.number, decision.outcomes, "decision.thresholds.scores"
    least = -math.inf if number.minimum is None else number.minimum
    most = math.inf if number.maximum is None else number.maximum
    yield least < most, "decision.number.minimum", number.minimum, "less than maximum"
    alerts = decision.alerts
    last = not alerts or alerts == tuple(others)[-len(alerts) :]
    wanted = f"the last of {', '.join((first, *others))}, in this order, and not the first; or none"
    yield last, "decision.alerts", alerts, wanted
    scores = decision.thresholds.scores or {}
    wanted = f"each of {', '.join(others)}" if others else f"nothing: there is one outcome, {first}"
    yield set(scores) == set(others), key, list(scores), wanted
    begins = [scores[name] for name in others if name in scores]
    yield begins == sorted(set(begins)), key, begins, "numbers that rise"
    for name, begin in scores.items():
        wanted = f"more than {least:g} and at most {most:g}, decision.number's range"
        yield least < begin <= most, f"{key}.{name}", begin, wanted


def _costs(costs: Mapping[str, LabelCosts], whole: str, names: tuple[str, ...]) -> Iterator[Rule]:
    """Rules of costs: each outcome is the cheapest within some range of probabilities, in their
    order."""
    if set(costs) != set(names):
        return
    before = 0.0
    for weaker, name in itertools.pairwise(names):
        one, other = costs[weaker], costs[name]
        more, saved = other.negative - one.negative, one.positive - other.positive
        begins = more / (more + saved) if more > 0 and saved > 0 else math.nan
        key = f"{whole}.{name}"
        wanted = f"more than {weaker} where the label is negative, and less where it is positive"
        yield more > 0 and saved > 0, key, [other.negative, other.positive], wanted
        if not math.isnan(begins):
            wanted = (
                f"costs by which some probability makes {weaker} the cheapest: {weaker} becomes "
                f"cheaper than the outcome before it only at {before:.3g}, and {name} is cheaper "
                f"than {weaker} from {begins:.3g} on"
            )
            yield before < begins, key, [other.negative, other.positive], wanted
            before = begins
