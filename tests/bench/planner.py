"""How well a rollout's plan foretells its verdicts: plan and judge on traffic with a known truth.

Each row plays a step of the shipped policy through `judge` in the worlds of the rollouts' bench,
after a week of the champion's traffic alone, from which the step was planned. Hours are medians
until a challenger as good as the champion was HEALTHY, power the share of such challengers that
were by the deadline, and the share of challengers with twice the harm that stops which were
stopped by then.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tests.bench.rollout_counts import recounted
from tests.bench.rollout_traffic import (
    Customers,
    drawn_customers,
    drawn_prediction,
    drawn_traffic,
    first_records,
)
from tests.bench.rollout_worlds import BUSY_HOURS, CELLS, World, busy
from tests.bench.rollouts import COMPLETE
from tests.support.traffic_profiles import profile_of

from mlplatform.model.folders import load_definition
from mlplatform.model.policies.rollout import CanaryStep, RolloutPolicy, ShadowStep
from mlplatform.rollouts.passes.observe import step_limits
from mlplatform.rollouts.verdicts.judgement import Judgement, judge
from mlplatform.rollouts.verdicts.planner import Stage, StagePlan, plan_stage
from mlplatform.rollouts.verdicts.simulated_paths import Alerts
from mlplatform.rollouts.verdicts.traffic import Traffic
from mlplatform.rollouts.verdicts.traffic_profile import Slice, TrafficProfile
from mlplatform.rollouts.verdicts.verdict import Prediction
from mlplatform.runtime.units import HOUR_MS

LOOKS = 40
PODS = 10
"""Of the challenger: at 1 000/s one would be busy for four seconds of each second."""
AHEAD, AHEAD_BAD = 2.0, 5.0
"""Times the hours in which most good ones are to have passed: how long a step is played."""


@dataclasses.dataclass(frozen=True, slots=True)
class Scene:
    """A world and a step of the policy in it.

    Args:
        history_h: of traffic before the rollout, that the plan is made from.
        good: a world whose challenger is as good as the champion. bad: for each gate, one with
            twice the harm that stops.
    """

    good: World
    bad: dict[str, World]
    history_h: float = 168.0
    deadline_h: float | None = None


def scene(good: World, **options: Any) -> Scene:
    """A world with the bad worlds of the shipped limits."""
    stop = load_definition("fraud").rollout
    bad = {
        "failures": dataclasses.replace(good, more_failing=2 * stop.failure_share_limit),
        "alerts": dataclasses.replace(good, alerts=1 + 2 * stop.stop.alerts),
        "latency_p50": dataclasses.replace(good, slower=1 + 2 * (stop.stop.latency_p50 - 1)),
    }
    return Scene(good, bad, **options)


SCENES: dict[str, Scene] = {
    name: scene(CELLS[name])
    for name in ("A/A, independent failures", "A/A, outages of 60 s", "A/A, outages of 600 s",
                 "A/A, alerts with ICC .17")
} | {
    "A/A, 2 000 a day": scene(World(payments_a_day=2_000, customers=2_000)),
    "A/A, 1 000/s": scene(busy(World()), history_h=2 * BUSY_HOURS, deadline_h=BUSY_HOURS),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One step of one rollout, as it was judged.

    Args:
        hours: until each gate, and "all", was first HEALTHY; endless: never.
        stopped: the gates that stopped it.
    """

    hours: dict[str, float]
    stopped: frozenset[str]


def profile_before(world: World, hours: float, seed: int) -> tuple[TrafficProfile, Customers]:
    """What a plan would read of the champion's traffic."""
    rng = np.random.default_rng([seed, 1])
    customers = drawn_customers(rng, world)
    traffic = drawn_traffic(rng, world, hours / 24, None, customers)
    mine = ~traffic.challenger
    names = ("event_ms", "recorded_ms", "unit", "failed", "scored", "alert", "latency_us")
    found = profile_of([Slice(*(getattr(traffic, n)[mine] for n in names), hours=hours)])
    assert found is not None
    return found, customers


def expected_alerts(predicted: Prediction) -> Alerts:
    """What the replay's prediction says of alerts."""
    assert predicted.alert_share is not None
    champion = predicted.alert_share / predicted.alert_ratio
    return Alerts.predicted(predicted.alert_share, champion, predicted.disagreement, predicted)


def play(
    world: World,
    policy: RolloutPolicy,
    asked: ShadowStep | CanaryStep,
    deadline_h: float,
    seed: int,
) -> Run:
    """One step, judged at interim analyses from early to late until it is stopped or has passed."""
    rng = np.random.default_rng([seed, 2])
    customers = drawn_customers(rng, world)
    predicted, _ = drawn_prediction(rng, world, customers)
    percent = asked.percent if isinstance(asked, CanaryStep) else None
    traffic = drawn_traffic(rng, world, deadline_h / 24, percent, customers)
    limits = step_limits(policy, asked, predicted, pods=PODS)
    hours: dict[str, float] = {}
    for hour, seen in _looks(traffic, deadline_h):
        found = recounted(seen, in_canary=percent is not None)
        judgement = judge(found, found, limits, COMPLETE)
        _note(hours, judgement, hour)
        if judgement.verdict == "UNHEALTHY":
            gates = judgement.evidence["gates"].items()
            return Run(hours, frozenset(n for n, g in gates if g["verdict"] == "UNHEALTHY"))
        if judgement.verdict == "HEALTHY":
            break
    return Run(hours, frozenset())


def _looks(traffic: Traffic, deadline_h: float) -> Iterable[tuple[float, Traffic]]:
    for hour in np.geomspace(deadline_h / 300, deadline_h, LOOKS):
        count = int(np.searchsorted(traffic.event_ms, hour * HOUR_MS))
        if count:
            yield float(hour), first_records(traffic, count)


def _note(hours: dict[str, float], judgement: Judgement, hour: float) -> None:
    gates = judgement.evidence["gates"]
    for name, gate in gates.items():
        if gate["verdict"] == "HEALTHY":
            hours.setdefault(name, hour)
    if judgement.verdict == "HEALTHY":
        hours.setdefault("all", hour)


def compared(
    scene: Scene, asked: ShadowStep | CanaryStep, policy: RolloutPolicy, runs: int
) -> dict[str, Any]:
    """One step's plan beside what happened in so many runs of each world."""
    deadline_h = scene.deadline_h or asked.deadline_h
    plan = planned(scene, asked, policy, deadline_h)
    late_h = plan.late_hours or deadline_h
    long_h, longer_h = (min(deadline_h, times * late_h) for times in (AHEAD, AHEAD_BAD))
    good = [play(scene.good, policy, asked, long_h, seed) for seed in range(runs)]
    bad = {}
    for gate in plan.gates:
        if gate.gate in scene.bad:
            world = scene.bad[gate.gate]
            ended = [play(world, policy, asked, longer_h, 1000 + s) for s in range(runs)]
            bad[gate.gate] = {
                "planned": gate.stops,
                "found": sum(bool(run.stopped) for run in ended) / runs,
            }
    return {
        "hours": {"planned": plan.hours, "found": _median(good, "all")},
        "gates": {g.gate: {"planned": g.hours, "found": _median(good, g.gate)}
                  for g in plan.gates if g.tolerance is not None},
        "decides": plan.decides,
        "passes": {"planned": plan.passes, "found": sum("all" in r.hours for r in good) / runs},
        "stops": bad,
    }  # fmt: skip


def planned(
    scene: Scene, asked: ShadowStep | CanaryStep, policy: RolloutPolicy, deadline_h: float
) -> StagePlan:
    """The step's plan, from a history of its world."""
    profile, customers = profile_before(scene.good, scene.history_h, 7)
    predicted, _ = drawn_prediction(np.random.default_rng(7), scene.good, customers)
    limits = step_limits(policy, asked, predicted, pods=PODS)
    assert limits.step is not None
    stage = Stage("", "", deadline_h, limits.failure_share, limits.step)
    return plan_stage(profile, stage, expected_alerts(predicted))


def _median(runs: list[Run], name: str) -> float | None:
    found = float(np.quantile([r.hours.get(name, np.inf) for r in runs], 0.5, method="lower"))
    return found if np.isfinite(found) else None


def told(name: str, row: dict[str, Any]) -> str:
    """A row of the table in docs/verdicts.md."""
    hours, passes = row["hours"], row["passes"]
    stops = ", ".join(
        f"{gate} {100 * s['planned']:.0f} / {100 * s['found']:.0f} %"
        for gate, s in row["stops"].items()
    )
    return (
        f"| {name} | {_hours(hours['planned'])} / {_hours(hours['found'])} | {row['decides']} | "
        f"{100 * passes['planned']:.0f} / {100 * passes['found']:.0f} % | {stops} |"
    )


def _hours(hours: float | None) -> str:
    if hours is None:
        return "not in time"
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def main() -> None:
    """Write build/bench/planner.json, row by row, and a line for each to standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=60, help="rollouts of each row")
    parser.add_argument("--only", nargs="*", default=list(SCENES), metavar="WORLD")
    parser.add_argument("--out", type=Path, default=Path("build/bench/planner.json"))
    options = parser.parse_args()
    policy, found = load_definition("fraud").rollout, {}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        for asked in (policy.shadow, *policy.canary):
            started = time.monotonic()
            step = f"{asked.percent:g} %" if isinstance(asked, CanaryStep) else "shadow"
            runs = options.runs if SCENES[name].deadline_h is None else max(options.runs // 3, 8)
            row = f"{name}, {step}"
            found[row] = compared(SCENES[name], asked, policy, runs)
            line = f"{told(row, found[row])} {time.monotonic() - started:.0f} s"
            print(line, file=sys.stderr, flush=True)
            options.out.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
