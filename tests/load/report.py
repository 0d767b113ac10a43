"""k6's figures of one run beside the objectives, as values and as text."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final

import msgspec
from tests.load.k6 import Metrics
from tests.load.objectives import DROPPED, Goal

QUANTILES: Final = ("med", "p(90)", "p(99)", "p(99.9)", "max")
MAX_LATE_MS: Final = 50.0
"""A 99th percentile of lateness above which the generator, and not the gateway, is what is slow."""


class Status(IntEnum):
    """Exit status of a load test."""

    MET = 0
    MISSED = 1
    UNUSABLE = 2
    GENERATOR_BEHIND = 3


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One objective and what was measured.

    Args:
        share: of good events, 0 to 1; null where nothing was counted, which meets no objective.
        shows: whether so few events can tell an objective that holds from one that is missed by
            one bad event.
    """

    name: str
    objective: float
    source: str
    share: float | None
    good: int
    bad: int
    met: bool
    shows: bool


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run.

    Args:
        due: requests that were due; `dropped` of them were not sent, since no virtual user was
            free, and `lost` got no answer.
        degraded: decisions that rules or a small model made, for lack of a predictor or features.
            slo.yaml has an objective of those that lack features alone.
        latency_ms: quantiles from when a request was due to its answer.
        duration_ms: the same from when it was sent.
        late_ms: by how much k6 itself sent it later than due.
        answered_ms: of async: from when it was due until its decision was there.
    """

    plan: dict[str, Any]
    due: int
    requests: int
    dropped: int
    lost: int
    decisions: int
    degraded: int
    outcomes: list[Outcome]
    latency_ms: dict[str, float]
    duration_ms: dict[str, float]
    late_ms: dict[str, float]
    answered_ms: dict[str, float] | None

    @property
    def status(self) -> Status:
        if self.late_ms.get("p(99)", 0.0) > MAX_LATE_MS:
            return Status.GENERATOR_BEHIND
        return Status.MET if all(outcome.met for outcome in self.outcomes) else Status.MISSED


def report(
    plan: dict[str, Any],
    due: int,
    goals: Sequence[Goal],
    metrics: Metrics,
    quantiles: Sequence[str] = QUANTILES,
) -> Report:
    """The report of k6's metrics."""

    def count(name: str) -> int:
        return int(metrics.get(name, {"values": {}})["values"].get("count", 0))

    def trend(name: str) -> dict[str, float]:
        values = metrics.get(name, {"values": {}})["values"]
        return {q: round(float(values[q]), 3) for q in quantiles if q in values}

    return Report(
        plan=plan,
        due=due,
        requests=count("requests"),
        dropped=count(DROPPED),
        lost=count("lost"),
        decisions=count("decisions"),
        degraded=count("degraded"),
        outcomes=[
            *(_outcome(goal, metrics) for goal in goals),
            _sent(count("requests"), count(DROPPED)),
        ],
        latency_ms=trend("latency_ms"),
        duration_ms=trend("duration_ms"),
        late_ms=trend("late_ms"),
        answered_ms=trend("answered_ms") or None,
    )


def lines(of: Report) -> list[str]:
    """What a person reads."""
    head = f"{of.requests} of {of.due} due requests sent, {of.decisions} decisions"
    head += f" ({of.degraded} degraded)" if of.degraded else ""
    found = [f"{head}, {of.dropped} dropped, {of.lost} without an answer", ""]
    found.append(f"{'objective':14}{'wanted':>10}{'measured':>11}{'bad':>7}  ")
    for outcome in of.outcomes:
        share = "nothing" if outcome.share is None else f"{outcome.share:.5f}"
        verdict = "met" if outcome.met else "MISSED"
        few = "" if outcome.shows else f", too few to show it: {outcome.good + outcome.bad}"
        found.append(
            f"{outcome.name:14}{outcome.objective:>10.5g}{share:>11}{outcome.bad:>7}  "
            f"{verdict}{few} ({outcome.source})"
        )
    found += ["", f"{'ms':14}" + "".join(f"{name:>10}" for name in QUANTILES)]
    rows = {
        "from due": of.latency_ms,
        "from sent": of.duration_ms,
        "sent late": of.late_ms,
        "answered": of.answered_ms,
    }
    for name, values in rows.items():
        if values:
            found.append(f"{name:14}" + "".join(f"{values[q]:>10.2f}" for q in QUANTILES))
    if of.status is Status.GENERATOR_BEHIND:
        found += ["", "k6 itself was late: its machine has too few free cores for this rate"]
    return found


def _sent(requests: int, dropped: int) -> Outcome:
    """Whether all that was due was sent: while every virtual user waits, nothing is."""
    total = requests + dropped
    return Outcome(
        name="sent",
        objective=1.0,
        source="what is due is sent, or latencies hide the worst",
        share=requests / total if total else None,
        good=requests,
        bad=dropped,
        met=requests > 0 and dropped == 0,
        shows=True,
    )


def _outcome(goal: Goal, metrics: Metrics) -> Outcome:
    values = metrics.get(goal.name, {"values": {}})["values"]
    good, bad = int(values.get("passes", 0)), int(values.get("fails", 0))
    share = good / (good + bad) if good + bad else None
    return Outcome(
        name=goal.name,
        objective=goal.share,
        source=goal.source,
        share=share,
        good=good,
        bad=bad,
        met=share is not None and share >= goal.share,
        shows=good + bad >= goal.events_needed,
    )
