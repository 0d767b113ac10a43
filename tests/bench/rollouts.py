"""How often a rollout of the shipped policy is right, by simulation of worlds with a known truth.

Each run plays one rollout through `judge` as passes do: payments of heavy-tailed customers, alerts
clustered by customer, failures in outages, two arms that differ as the world says. It counts how
often the challenger was stopped, held (not decided by a step's deadline, and so rolled back) or
promoted, by which gates, and how many customers it had answered by then.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from mlplatform.decisions.records.port import Watermark
from mlplatform.model.folders import load_definition
from mlplatform.model.policies.rollout import CanaryStep, RolloutPolicy
from mlplatform.model.policies.segments import (
    RolloutSegment,
    SegmentLimits,
    SegmentPolicy,
    SegmentSource,
)
from mlplatform.rollouts.journal.journal import GatewayLease
from mlplatform.rollouts.passes.observe import SEGMENT_ALERTS, step_limits
from mlplatform.rollouts.verdicts.aggregates import Aggregates, Extent, counted, portion
from mlplatform.rollouts.verdicts.comparison import Prediction
from mlplatform.rollouts.verdicts.facts import Subject
from mlplatform.rollouts.verdicts.judgement import Judgement, Limits, Sources, judge
from mlplatform.rollouts.verdicts.traffic import Traffic

COMPLETE = Sources(
    (Watermark("gateway-1", 10**9, 10**15, 0, True),), (GatewayLease("gateway-1", 1),)
)
LOOK_EVERY_H = 4.0
REPLAYED_DAYS = 3.0
MEDIAN_US, LATENCY_SIGMA = 4000.0, 0.3
DAY_TO_DAY = 0.08
SECONDS = 86_400.0

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, slots=True)
class World:
    """What is true of both arms.

    Args:
        activity: sigma of the customers' lognormal activity.
        icc: how alike the alerts of one customer are (0-1).
        outage_s: length of an outage, in which an arm fails; 0: failures are independent.
        failing: share of requests that either arm fails.
        more_failing: that the challenger fails besides; late: in canary alone, where it is held to
            a deadline that shadow calls do not have.
        alerts, more_alerts: the challenger's alerts, as a multiple of the champion's, and a share
            of payments besides.
        redrawn: payments on which the challenger decides as if by another draw of the same rate.
        slower, tail: median and 99th percentile of its latency, as multiples of the champion's.
        segmented: the policy declares segments besides: a tenth of the customers and nights, that
            shadow has to show, and a fiftieth of them and weekends.
        inverted: in the tenth, the challenger ranks payments upside down: as many alerts, and none
            in common with the champion.
        in_segment: the challenger's alerts in the tenth, as a multiple of the champion's.
    """

    payments_a_day: int = 10_000
    customers: int = 5_000
    activity: float = 1.2
    icc: float = 0.05
    alert_share: float = 0.013
    outage_s: float = 60.0
    failing: float = 0.001
    more_failing: float = 0.0
    late: float = 0.0
    alerts: float = 1.0
    more_alerts: float = 0.0
    redrawn: float = 0.2
    slower: float = 1.0
    tail: float = 1.0
    segmented: bool = False
    inverted: bool = False
    in_segment: float = 1.0


CELLS: dict[str, World] = {
    "A/A, independent failures": World(outage_s=0.0),
    "A/A, outages of 60 s": World(),
    "A/A, outages of 600 s": World(outage_s=600.0),
    "A/A, alerts with ICC .17": World(icc=0.17),
    "failures 2 %": World(more_failing=0.02),
    "failures 5 %": World(more_failing=0.05),
    "failures 2 %, in canary alone": World(late=0.02),
    "failures 5 %, in canary alone": World(late=0.05),
    "alerts x 2": World(alerts=2.0),
    "alerts + .5 point": World(more_alerts=0.005),
    "alerts x .25": World(alerts=0.25),
    "never an alert": World(alerts=0.0),
    "alerts half redrawn": World(redrawn=0.7),
    "no alert in common": World(redrawn=1.0),
    "3 x p50": World(slower=3.0),
    "+ 20 % p99": World(tail=1.2),
    "A/A, four segments": World(segmented=True),
    "A/A, four segments, alerts with ICC .17": World(segmented=True, icc=0.17),
    "a segment of 10 % upside down": World(segmented=True, inverted=True),
    "never an alert in a segment of 10 %": World(segmented=True, in_segment=0.0),
    "alerts x 3 in a segment of 10 %": World(segmented=True, in_segment=3.0),
}
TENTH, FIFTIETH = 10, 50
"""Of the customers, every tenth is in one segment, and every fiftieth in another."""
SEGMENTS = SegmentPolicy(
    stop=SegmentLimits(alerts=0.5, disagreement=0.3),
    tolerance=SegmentLimits(alerts=1.0, disagreement=0.5),
    groups=tuple(
        # the world says who is in it
        RolloutSegment(name=name, input="amount", at_least=0, required=required)
        for name, required in (
            ("tenth", True),
            ("fiftieth", False),
            ("weekend", False),
            ("night", True),
        )
    ),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Customers:
    """Activity (sums to 1) and share of alerts of each customer."""

    activity: Floats
    alert_share: Floats


@dataclasses.dataclass(frozen=True, slots=True)
class Ending:
    """How one rollout ended.

    Args:
        gates: that were UNHEALTHY, or where it was held those that had not shown enough.
    """

    how: str
    phase: str
    exposed: int
    hours: float
    gates: tuple[str, ...]


def rollout(world: World, policy: RolloutPolicy, seed: int) -> Ending:
    """One challenger's way through shadow and canary."""
    rng = np.random.default_rng(seed)
    customers, exposed, hours = drawn_customers(rng, world), 0, 0.0
    predicted, of_segments = drawn_prediction(rng, world, customers)
    if world.segmented:
        policy = msgspec.structs.replace(policy, segments=SEGMENTS)
    for asked in (policy.shadow, *policy.canary):
        percent = asked.percent if isinstance(asked, CanaryStep) else None
        phase = "shadow" if percent is None else f"canary {percent:g} %"
        traffic = drawn_traffic(rng, world, asked.deadline_h / 24, percent, customers)
        limits = step_limits(policy, asked, predicted, of_segments=of_segments)
        judgement, until_h, seen = _first_verdict(traffic, limits, asked.deadline_h)
        hours += until_h
        if percent is not None:
            exposed += len(np.unique(seen.unit[seen.challenger]))
        if judgement.verdict != "HEALTHY":
            how = "stopped" if judgement.verdict == "UNHEALTHY" else "held"
            gates = judgement.evidence["gates"].items()
            told = tuple(n for n, gate in gates if gate["verdict"] == judgement.verdict)
            return Ending(how, phase, exposed, hours, told)
    return Ending("promoted", "promoted", exposed, hours, ())


def _first_verdict(
    traffic: Traffic, limits: Limits, deadline_h: float
) -> tuple[Judgement, float, Traffic]:
    for hour in np.arange(LOOK_EVERY_H, deadline_h + LOOK_EVERY_H / 2, LOOK_EVERY_H):
        seen = first_records(traffic, int(np.searchsorted(traffic.event_ms, hour * 3_600_000)))
        step = limits.step
        assert step is not None
        found = counted_up(
            seen, in_canary=step.percent is not None, segments=tuple(s.name for s in step.segments)
        )
        judgement = judge(found, found, limits, COMPLETE)
        if judgement.verdict != "INCONCLUSIVE":
            break
    return judgement, float(hour), seen


def first_records(traffic: Traffic, count: int) -> Traffic:
    names = [
        f.name for f in dataclasses.fields(traffic) if f.name not in ("dropped", "uncopied_ms")
    ]
    return dataclasses.replace(traffic, **{n: getattr(traffic, n)[:count] for n in names})


def counted_up(seen: Traffic, *, in_canary: bool, segments: tuple[str, ...] = ()) -> Aggregates:
    last_ms = int(seen.event_ms[-1]) if len(seen) else 0
    extent = Extent(last_ms, int(seen.event_ms[0]) if len(seen) else 0, last_ms)
    sources = tuple(SegmentSource(name, "field") for name in segments)
    subject = Subject(1, "canary" if in_canary else "shadow", 2, segments=sources)
    found = portion(seen, is_timed=in_canary, segments=len(segments))
    return counted(found, subject, extent)


def drawn_prediction(
    rng: np.random.Generator, world: World, customers: Customers
) -> tuple[Prediction, dict[str, Prediction]]:
    """What replay said of the model as it was meant: as many alerts as the champion's; and of its
    segments."""
    meant = dataclasses.replace(
        world, alerts=1.0, more_alerts=0.0, more_failing=0.0, redrawn=min(world.redrawn, 0.2),
        inverted=False, in_segment=1.0,
    )  # fmt: skip
    traffic = drawn_traffic(rng, meant, REPLAYED_DAYS, None, customers)
    mine = traffic.challenger
    own, other = traffic.alert[mine], traffic.other_alert[mine]
    of_segments = {}
    for number, segment in enumerate(SEGMENTS.groups):
        inside = traffic.segments[mine] >> number & 1 > 0
        if (own | other)[inside].sum() >= SEGMENT_ALERTS:
            of_segments[segment.name] = _prediction(own[inside], other[inside])
    return _prediction(own, other), of_segments


def _prediction(own: Flags, other: Flags) -> Prediction:
    either, both = int((own | other).sum()), int((own & other).sum())
    ratio, share = float(own.sum() / other.sum()), float(own.mean())
    return Prediction(ratio, (either - both) / either, share)


def drawn_customers(rng: np.random.Generator, world: World) -> Customers:
    activity = rng.lognormal(0.0, world.activity, world.customers)
    activity /= activity.sum()
    alike = (1 - world.icc) / world.icc
    share = rng.beta(world.alert_share * alike, (1 - world.alert_share) * alike, world.customers)
    return Customers(activity, share * world.alert_share / (activity * share).sum())


def drawn_traffic(
    rng: np.random.Generator,
    world: World,
    days: float,
    percent: float | None,
    customers: Customers,
) -> Traffic:
    payments = rng.poisson(world.payments_a_day * days)
    at_s = np.sort(rng.uniform(0, days * SECONDS, payments))
    unit = rng.choice(world.customers, payments, p=customers.activity)
    champion, challenger = _alerts(rng, world, days, at_s, customers.alert_share[unit])
    tenth = unit % TENTH == 0
    if world.inverted:
        upside_down = ~champion & (rng.random(payments) < champion[tenth].mean())
        challenger = np.where(tenth, upside_down, challenger)
    elif world.in_segment < 1:
        challenger = challenger & (~tenth | (rng.random(payments) < world.in_segment))
    elif world.in_segment > 1:
        share = customers.alert_share[unit] * (world.in_segment - 1)
        challenger = challenger | (tenth & (rng.random(payments) < share))
    failed = _failures(rng, world, days, at_s)
    more = world.more_failing + (world.late if percent is not None else 0.0)
    own_failed = _failures(rng, world, days, at_s) | (rng.random(payments) < more)
    took_us, own_us = (rng.lognormal(np.log(MEDIAN_US), LATENCY_SIGMA, payments) for _ in range(2))
    own_us = _slowed(own_us, world)
    if percent is None:
        return _shadow(at_s, unit, (failed, own_failed), (champion, challenger), (took_us, own_us))
    mine = (rng.random(world.customers) < percent / 100)[unit]
    return _records(
        at_s=at_s,
        unit=unit,
        challenger=mine,
        failed=np.where(mine, own_failed, failed),
        alert=np.where(mine, challenger, champion),
        other_alert=None,
        latency_us=np.where(mine, own_us, took_us),
    )


def _alerts(
    rng: np.random.Generator, world: World, days: float, at_s: Floats, share: Floats
) -> tuple[Flags, Flags]:
    level = rng.normal(1.0, DAY_TO_DAY, int(days) + 1).clip(0.5, 1.5)
    share = np.clip(share * level[(at_s // SECONDS).astype(int)], 0, 1)
    champion = rng.random(len(share)) < share
    again = rng.random(len(share)) < share
    alike = np.where(rng.random(len(share)) < world.redrawn, again, champion)
    times = world.alerts + world.more_alerts / world.alert_share
    if times < 1:
        return champion, alike & (rng.random(len(share)) < times)
    return champion, alike | (rng.random(len(share)) < share * (times - 1))


def _failures(rng: np.random.Generator, world: World, days: float, at_s: Floats) -> Flags:
    if not world.outage_s:
        return rng.random(len(at_s)) < world.failing
    outages = rng.poisson(world.failing * SECONDS * days / world.outage_s)
    failed = np.zeros(len(at_s), dtype=bool)
    for start_s in rng.uniform(-world.outage_s, SECONDS * days, outages):
        failed |= (at_s >= start_s) & (at_s < start_s + world.outage_s)
    return failed


def _slowed(took_us: Floats, world: World) -> Floats:
    took_us = took_us * world.slower
    knee, top = np.quantile(took_us, [0.95, 0.99])
    steeper = (world.tail * top - knee) / (top - knee)
    return np.asarray(np.where(took_us > knee, knee + (took_us - knee) * steeper, took_us))


def _shadow(
    at_s: Floats,
    unit: npt.NDArray[np.int64],
    failed: tuple[Flags, Flags],
    alert: tuple[Flags, Flags],
    latency_us: tuple[Floats, Floats],
) -> Traffic:
    """Each decision of the champion, followed by its copy."""

    def both(pair: tuple[Any, Any]) -> npt.NDArray[Any]:
        return np.stack(pair, axis=1).reshape(-1)

    nobody = np.zeros(len(at_s), dtype=bool)
    compared = ~failed[0] & ~failed[1]
    return _records(
        at_s=both((at_s, at_s)),
        unit=both((unit, unit)),
        challenger=both((nobody, ~nobody)),
        failed=both(failed),
        alert=both(alert),
        other_alert=both((nobody, alert[0])),
        latency_us=both(latency_us),
        paired=both((nobody, compared)),
    )


def _records(
    *,
    at_s: Floats,
    unit: npt.NDArray[np.int64],
    challenger: Flags,
    failed: Flags,
    alert: Flags,
    other_alert: Flags | None,
    latency_us: Floats,
    paired: Flags | None = None,
) -> Traffic:
    nothing, at_ms = np.zeros(len(unit), dtype=bool), (at_s * 1000).astype(np.int64)
    paired = nothing if paired is None else paired
    other_alert = nothing if other_alert is None else other_alert & paired
    copies = np.where(paired.any() & challenger, np.arange(len(unit)), -1)
    day, hour = at_s // SECONDS, at_s % SECONDS // 3600
    inside = (unit % TENTH == 0, unit % FIFTIETH == 1, day % 7 >= 5, hour <= 6)
    return Traffic(
        event_ms=at_ms,
        recorded_ms=at_ms,
        unit=unit,
        challenger=challenger,
        failed=failed,
        excused=nothing,
        scored=~failed,
        alert=alert & ~failed,
        paired=paired,
        flipped=paired & (alert != other_alert),
        other_alert=other_alert,
        late=nothing,
        latency_us=latency_us.astype(np.int64),
        call=copies,
        segments=sum(flags.astype(np.int64) << n for n, flags in enumerate(inside)),
    )


def cell(world: World, policy: RolloutPolicy, runs: int) -> dict[str, Any]:
    """Shares of endings over these runs, with medians."""
    endings = [rollout(world, policy, seed) for seed in range(runs)]
    shares = {how: sum(e.how == how for e in endings) / runs for how in
              ("stopped", "held", "promoted")}  # fmt: skip
    return {
        **shares,
        "runs": runs,
        "payments_a_day": world.payments_a_day,
        "days": round(float(np.median([e.hours for e in endings])) / 24, 2),
        "exposed_customers": int(np.median([e.exposed for e in endings])),
        "phases": dict(Counter(e.phase for e in endings)),
        "gates": dict(Counter(gate for e in endings for gate in e.gates)),
    }


def main() -> None:
    """Write build/bench/rollouts.json, cell by cell, and a line for each to standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="rollouts of each world")
    parser.add_argument("--only", nargs="*", default=list(CELLS), metavar="WORLD")
    parser.add_argument("--out", type=Path, default=Path("build/bench/rollouts.json"))
    options = parser.parse_args()
    policy, found = load_definition("fraud").rollout, {}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        started = time.monotonic()
        found[name] = cell(CELLS[name], policy, options.runs)
        keys = ("stopped", "held", "promoted", "exposed_customers", "days")
        told = {key: found[name][key] for key in keys}
        print(f"{name}: {told} ({time.monotonic() - started:.0f} s)", file=sys.stderr, flush=True)
        options.out.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
