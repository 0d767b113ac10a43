"""How often a rollout of the shipped policy is right, by simulation of worlds with a known truth.

Each run plays one rollout through `judge` as passes do, and counts how often the challenger was
stopped, held (not decided by a step's deadline, and so rolled back) or promoted, by which gates,
and how many customers it had answered by then. Other rules read the same streams. Margins play a
step with a challenger whose harm is what the step tolerates: how often is a gate HEALTHY then?
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from scipy.optimize import brentq
from tests.bench import rollout_outcomes
from tests.bench.rollout_counts import Counts
from tests.bench.rollout_rules import RULES, SCORE_BINS, Look, binned_scores
from tests.bench.rollout_traffic import (
    Stream,
    drawn_customers,
    drawn_prediction,
    true_prediction,
)
from tests.bench.rollout_worlds import BUSY_HOURS, CELLS, World, busy, segments_of

from mlplatform.decisions.records.port import Watermark
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.folders import load_definition
from mlplatform.model.policies.rollout import CanaryStep, ShadowStep
from mlplatform.rollouts.journal.journal import GatewayLease
from mlplatform.rollouts.passes.observe import immaterial_us, step_limits
from mlplatform.rollouts.verdicts.judgement import GateLimits, Sources, judge
from mlplatform.rollouts.verdicts.verdict import Prediction

COMPLETE = Sources(
    (Watermark("gateway-1", 10**9, 10**15, 0, True),), (GatewayLease("gateway-1", 1),)
)
LOOK_AHEAD: Final = 1.1
"""Each interim analysis is so many times as late as the one before: a bound that holds at every
interim analysis is crossed, if ever, about as often at these as at all."""
FIRST_LOOK_H: Final = 1.0
BUSY_FIRST_LOOK_H: Final = 5 / 3600
PASSED_AFTER_H: Final = {None: 52.0, 5.0: 28.0, 25.0: 4.0, 50.0: 4.0}
BUSY_PASSED_AFTER_H: Final = {None: 60 / 3600, 5.0: 25 / 3600, 25.0: 50 / 3600, 50.0: 50 / 3600}
"""When other rules pass a step: about as long as an equal challenger takes by the platform's."""
OURS: Final = "platform"

RolloutStep = ShadowStep | CanaryStep


@dataclasses.dataclass(slots=True)
class Way:
    """How far one rule has come with a challenger.

    Args:
        how: "stopped", "held" or "promoted"; empty: on its way.
        gates: that were UNHEALTHY, or where it was held those that had not shown enough.
    """

    how: str = ""
    phase: str = "promoted"
    exposed: int = 0
    hours: float = 0.0
    gates: tuple[str, ...] = ()

    def ended(self, how: str, phase: str, gates: tuple[str, ...] = ()) -> None:
        self.how, self.phase, self.gates = how, phase, gates


@cache
def fraud() -> ModelDefinition:
    return load_definition("fraud")


def steps() -> tuple[RolloutStep, ...]:
    policy = fraud().rollout
    return (policy.shadow, *policy.canary)


def steps_in(world: World) -> tuple[RolloutStep, ...]:
    """As shipped; at 1,000/s the 25 % step asks for the slowest answers too, as a plan proposes."""
    if not world.is_busy:
        return steps()
    limit = fraud().rollout.stop.latency_p99
    return tuple(
        msgspec.structs.replace(
            asked, tolerance=msgspec.structs.replace(asked.tolerance, latency_p99=limit)
        )
        if percent_of(asked) == 25
        else asked
        for asked in steps()
    )


def percent_of(asked: RolloutStep) -> float | None:
    return asked.percent if isinstance(asked, CanaryStep) else None


def phase_of(asked: RolloutStep) -> str:
    percent = percent_of(asked)
    return "shadow" if percent is None else f"canary {percent:g} %"


def looks(world: World, deadline_h: float) -> Iterator[float]:
    """Hours of a step, the last of them its deadline; whole moments of 250 ms."""
    hour = BUSY_FIRST_LOOK_H if world.is_busy else FIRST_LOOK_H
    while hour < deadline_h:
        yield round(hour * 14_400) / 14_400
        hour *= LOOK_AHEAD
    yield deadline_h


def limits_in(
    world: World, asked: RolloutStep, predicted: Prediction, of_segments: dict[str, Prediction]
) -> GateLimits:
    policy = msgspec.structs.replace(fraud().rollout, segments=segments_of(world))
    return step_limits(
        policy,
        asked,
        predicted,
        pods=world.pods,
        of_segments=of_segments,
        immaterial_us=immaterial_us(fraud()),
    )


def rollout(world: World, seed: int, *, beside: bool = False) -> dict[str, Way]:
    """One challenger's way through shadow and canary, by each rule.

    Args:
        beside: also by the rules of others.
    """
    rng = np.random.default_rng(seed)
    customers = drawn_customers(rng, world)
    predicted, of_segments = drawn_prediction(rng, world, customers)
    ways = {name: Way() for name in (OURS, *(RULES if beside else ()))}
    for number, asked in enumerate(steps_in(world)):
        phase_rng, percent = np.random.default_rng([seed, number]), percent_of(asked)
        stream = Stream(
            phase_rng, world.in_step(percent), world.deadline_h(asked.deadline_h), percent,
            customers,
        )  # fmt: skip
        limits = limits_in(world, asked, predicted, of_segments)
        _play(world, asked, limits, stream, {n: w for n, w in ways.items() if not w.how})
    for way in ways.values():
        way.how = way.how or "promoted"
    return ways


def _play(
    world: World, asked: RolloutStep, limits: GateLimits, stream: Stream, ways: dict[str, Way]
) -> None:
    """One step, until each rule has decided it."""
    step, phase, percent = limits.step, phase_of(asked), percent_of(asked)
    assert step is not None
    deadline_h, least_h = world.deadline_h(asked.deadline_h), world.least_h(asked.minimum_h)
    passed_h = (BUSY_PASSED_AFTER_H if world.is_busy else PASSED_AFTER_H)[percent]
    counts = Counts(
        world.customers, deadline_h, in_canary=percent is not None,
        segments=tuple(s.name for s in step.segments),
    )  # fmt: skip
    open_, scores = dict(ways), np.zeros((2, SCORE_BINS), dtype=np.int64)
    for hour in looks(world, deadline_h):
        payments = stream.until(hour)
        counts.add(stream.traffic(payments))
        found = counts.aggregates()
        if not found.records:
            continue
        if len(ways) > 1:
            scores += np.stack([binned_scores(s) for s in stream.scores(payments)])
        exposed = found.count("units") if percent is not None else 0
        for name, way in tuple(open_.items()):
            if name == OURS:
                judgement = judge(found, found, limits, COMPLETE)
                verdict, gates = judgement.verdict, _telling(judgement.evidence)
            else:
                look = Look(found, step, limits.failure_share, scores)
                verdict, gates = _by_rule(name, look, hour >= passed_h), ()
            lasts = verdict == "HEALTHY" and name == OURS and hour < least_h
            if (verdict == "INCONCLUSIVE" or lasts) and hour < deadline_h:
                continue
            del open_[name]
            way.hours, way.exposed = way.hours + hour, way.exposed + exposed
            if verdict != "HEALTHY":
                way.ended("stopped" if verdict == "UNHEALTHY" else "held", phase, gates)
        if not open_:
            return


def _by_rule(name: str, look: Look, is_due: bool) -> str:
    found, step = look.found, look.step
    if found.count("units") < step.units or found.count("requests") < step.requests:
        return "INCONCLUSIVE"
    if RULES[name](look):
        return "UNHEALTHY"
    return "HEALTHY" if is_due else "INCONCLUSIVE"


def _telling(evidence: dict[str, Any]) -> tuple[str, ...]:
    gates = evidence["gates"].items()
    return tuple(n for n, gate in gates if gate["verdict"] == evidence["verdict"])


def margins(world: World, asked: RolloutStep, seed: int) -> frozenset[str]:
    """Gates that say HEALTHY at any interim analysis of a step, of a challenger that is as harmful
    in each as the step tolerates; no gate stops it. "all" is in it where all of them do at one
    interim analysis."""
    rng = np.random.default_rng([seed, 100])
    customers = drawn_customers(rng, world)
    percent, tolerance = percent_of(asked), asked.tolerance
    as_good = true_prediction(world, customers)
    world = dataclasses.replace(
        world,
        more_failing=tolerance.failures,
        slower=tolerance.latency_p50 or 1.0,
    )
    if tolerance.alerts is not None:
        ratio = as_good.alert_ratio * (1 + tolerance.alerts)
        world = _solved(
            world, "alerts", 9.0, lambda w: true_prediction(w, customers).alert_ratio - ratio
        )
    if tolerance.disagreement is not None:
        share = as_good.disagreement + tolerance.disagreement
        world = _solved(
            world, "redrawn", 1.0, lambda w: true_prediction(w, customers).disagreement - share
        )
    harm = {name for name in ("failures", "alerts", "disagreement", "latency_p50")
            if getattr(tolerance, name) is not None}  # fmt: skip
    deadline_h = world.deadline_h(asked.deadline_h)
    stream = Stream(rng, world, deadline_h, percent, customers)
    counts = Counts(world.customers, deadline_h, in_canary=percent is not None)
    limits, healthy = limits_in(world, asked, as_good, {}), set[str]()
    for hour in looks(world, deadline_h):
        counts.add(stream.traffic(stream.until(hour)))
        found = counts.aggregates()
        if not found.records:
            continue
        gates = judge(found, found, limits, COMPLETE).evidence["gates"]
        now = {name for name in harm if gates.get(name, {}).get("verdict") == "HEALTHY"}
        healthy |= now | ({"all"} if now == harm else set())
    return frozenset(healthy)


def _solved(world: World, name: str, most: float, beyond: Callable[[World], float]) -> World:
    """The same with a value between its own and the most, at which there is nothing beyond."""

    def at(value: float) -> World:
        return dataclasses.replace(world, **{name: value})

    return at(float(brentq(lambda v: beyond(at(v)), getattr(world, name), most)))


MARGINS: Final[dict[str, tuple[World, int]]] = {
    f"harm at the margin of {phase_of(asked)}{suffix}": (world, number)
    for world, suffix in ((World(), ""), (busy(World()), ", 1 000/s"))
    for number, asked in enumerate(steps())
}


def _one(task: tuple[str, int, bool]) -> Any:
    name, seed, beside = task
    if name in MARGINS:
        world, number = MARGINS[name]
        return margins(world, steps()[number], seed)
    if name in rollout_outcomes.CELLS:
        return rollout_outcomes.ending(name, seed)
    return rollout(CELLS[name], seed, beside=beside)


def cell(name: str, runs: list[Any]) -> dict[str, Any]:
    """Shares of endings over these runs, with medians."""
    if name in MARGINS:
        found = Counter(gate for run in runs for gate in run)
        return {"runs": len(runs), "healthy": {g: n / len(runs) for g, n in sorted(found.items())}}
    if name in rollout_outcomes.CELLS:
        shares = {how: runs.count(how) / len(runs) for how in ("stopped", "held", "promoted")}
        return shares | {"runs": len(runs), **rollout_outcomes.described(name)}
    row = _row([run[OURS] for run in runs]) | {"payments_a_day": CELLS[name].payments_a_day}
    if CELLS[name].is_busy:
        row["played_h"] = BUSY_HOURS
    beside = {rule: [run[rule] for run in runs if rule in run] for rule in RULES}
    return row | {"beside": {rule: _row(ways) for rule, ways in beside.items() if ways}}


def _row(ways: list[Way]) -> dict[str, Any]:
    shares = {how: sum(w.how == how for w in ways) / len(ways)
              for how in ("stopped", "held", "promoted")}  # fmt: skip
    stopped = [w.exposed for w in ways if w.how == "stopped"]
    return {
        **shares,
        "runs": len(ways),
        "hours": round(float(np.median([w.hours for w in ways])), 3),
        "exposed_customers": int(np.median([w.exposed for w in ways])),
        "exposed_until_stopped": int(np.median(stopped)) if stopped else None,
        "phase": dict(Counter(f"{w.how} in {w.phase}" for w in ways if w.how != "promoted")),
        "gates": dict(Counter(f"{w.how} by {g}" for w in ways for g in w.gates)),
    }


def _line(name: str, row: dict[str, Any]) -> str:
    if "healthy" in row:
        return f"{name}: HEALTHY {row['healthy']}"
    keys = ("stopped", "held", "promoted", "exposed_customers", "hours", "phase")
    others = {rule: found["stopped"] for rule, found in row.get("beside", {}).items()}
    return f"{name}: { {key: row[key] for key in keys if key in row} } others stop {others}"


def _is_asked(name: str, only: list[str], every: list[str]) -> bool:
    """By the whole name of a cell, or a part of it."""
    return not only or any(name == part or (part in name and part not in every) for part in only)


def main() -> None:
    """Write build/bench/rollouts.json, cell by cell, and a line for each to standard error."""
    every = [*CELLS, *MARGINS, *rollout_outcomes.CELLS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="rollouts of each cell (200)")
    parser.add_argument("--beside", type=int, default=200, help="of them, also by other rules")
    parser.add_argument("--only", nargs="*", default=[], metavar="CELL", help="names or parts")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (1)")
    parser.add_argument("--json", action="store_true", help="print the file's content")
    parser.add_argument("--out", type=Path, default=Path("build/bench/rollouts.json"))
    options = parser.parse_args()
    for part in options.only:
        if not any(part in name for name in every):
            parser.error(f"--only is '{part}', part of no cell: {', '.join(every)}")
    names = [n for n in every if _is_asked(n, options.only, every)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    with ProcessPoolExecutor(options.jobs) as pool:
        played: Callable[..., Iterator[Any]] = map if options.jobs == 1 else pool.map
        more = {} if options.jobs == 1 else {"chunksize": max(options.runs // 50, 1)}
        for number, name in enumerate(names, start=1):
            started = time.monotonic()
            tasks = [(name, seed, seed < options.beside) for seed in range(options.runs)]
            runs = []
            for run in played(_one, tasks, **more):
                runs.append(run)
                if sys.stderr.isatty():
                    print(f"\r{len(runs)} of {len(tasks)}", end="\r", file=sys.stderr)
            found[name] = cell(name, runs)
            took = f"[{number} of {len(names)}, {time.monotonic() - started:.0f} s]"
            print(f"{took} {_line(name, found[name])}", file=sys.stderr, flush=True)
            options.out.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
    if options.json:
        print(options.out.read_text(), end="")


if __name__ == "__main__":
    main()
