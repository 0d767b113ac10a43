"""What a rate needs: gateways measured by k6 on this machine, beside a simulation, and a plan.

    make bench-capacity BENCH_FLAGS="--seconds 8 --repeats 3"

Gateways, their predictor and k6 share this machine's cores. One gateway in closed loops, of one
user and of many, says what a request costs alone and in a crowd; from nothing else
`tests.bench.turns` foretells open loops at several rates and of more gateways, which are measured.
The plan for a rate that no machine here carries is the same simulation with a core for each
process. Where others use the cores too, loops in which they took much are done again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import psutil
from tests.bench import processes
from tests.bench.decision_log import appended, entry
from tests.bench.model import fraud_bundle, trees
from tests.bench.turns import Pauses, SimulationResult, Step, System, closed_loop, open_loop
from tests.load import k6, profiles, runs
from tests.load.report import Report

from mlplatform.model.folders import load_definition
from mlplatform.observing.slo import objectives as slo
from support.gateways_world import GatewaysWorld
from support.scoring_world import MODEL

GATEWAYS: Final = (1, 2, 4)
CROWD: Final = 32
OTHERS_LIMIT: Final = 0.25
"""Share of all cores that others may take during a loop; else it is done again, up to MAX_TRIES
times in all."""
MAX_TRIES: Final = 4
SHARES: Final = (0.3, 0.5)
"""Rates of the open loops, by what one gateway answers in the closed loop of the crowd."""
TARGET_PER_S: Final = 50_000.0
LOAD_LIMIT: Final = 0.6
"""Of the rate at which crowds alone keep a core busy: the rest is for retries and lost nodes."""
TIMES: Final = (
    *(f"p({percent})" for percent in (5, 15, 25, 35)),
    "med",
    *(f"p({percent})" for percent in (60, 70, 80, 85, 90, 95, 97, 98, 99, 99.5, 99.9)),
    "max",
)
"""Quantiles by which the times of a lone request are known, in order."""
LOG_RECORDS: Final = 10_000
WARM_UP_S: Final = 1.5
GRID: Final = 2_000
"""Points at which the times of lone requests are taken."""
IDLE_S: Final = 5.0
PLANNED: Final = 60_000
"""Requests of a simulated plan."""


@dataclass(frozen=True, slots=True)
class Loop:
    """One loop as it was measured.

    Args:
        cpu_us: of a request, by role: gateway (without what it does idle), predictor, client.
        ms: quantiles from sent to answered; `late_p99_ms` is how late k6 itself sent.
        others_share: of the time of all cores, what other processes took meanwhile.
    """

    gateways: int
    users: int | None
    due_per_s: float | None
    per_s: float
    cpu_us: dict[str, float]
    ms: dict[str, float]
    late_p99_ms: float
    others_share: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What the simulation knows of an installation.

    Args:
        alone_us: processor time of a request that comes alone, by role.
        crowd_us: the same with `users` of them under way.
        lone_ms: quantiles of the lone request's time, q (0 to 1) and value.
        lone_per_s: how many of them came a second.
        background_share: of a core, what a gateway does without requests.
        log_per_s: records that one decision log takes a second, 64 a commit.
    """

    alone_us: dict[str, float]
    crowd_us: dict[str, float]
    users: int
    lone_ms: tuple[tuple[float, float], ...]
    lone_per_s: float
    background_share: float
    log_per_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Processes, a core each, that carry a rate.

    Args:
        busy_share: of a gateway's core, by the simulation. It is near 1 long before a gateway is at
            its limit, since fewer requests share a turn.
        p50_ms: and the others: where nobody else uses the cores.
        p99_paused_ms: with the pauses that this machine had.
        logs: decision logs, each of which some of the gateways write.
    """

    per_s: float
    gateways: int
    predictors: int
    logs: int
    cores: int
    busy_share: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    p99_paused_ms: float


def quiet(of: System) -> System:
    """The same where nobody else is."""
    return replace(of, pauses=Pauses())


def system(figures: Figures, *, gateways: int, predictors: int = 1, cores: int | None) -> System:
    """The simulated installation. A gateway works twice at a request: it takes it in and asks the
    predictor, then it records and answers; each has half of the cost, since nothing here can tell
    them apart. What a lone request costs more than one in a crowd is of the turn."""
    costs = {
        role: Step(role, max(alone - figures.crowd_us[role], 0.0), figures.crowd_us[role])
        for role, alone in figures.alone_us.items()
    }
    gateway, predictor = costs["gateway"], costs["predictor"]
    lone_ms = quantile(figures.lone_ms, 0.5)
    idle_ms = lone_ms - (figures.alone_us["gateway"] + figures.alone_us["predictor"]) / 1000
    after = min(max(-idle_ms * 1000 / figures.alone_us["gateway"], 0.0), 0.9)
    """The share of a gateway's work that comes after the answer, where work is more than time."""
    half = Step("gateway", gateway.fixed_us * (1 - after) / 2, gateway.each_us * (1 - after) / 2)
    client = Step("client", 0.0, figures.crowd_us["client"] / 2, False)
    rest = Step("gateway", gateway.fixed_us * after, gateway.each_us * after, False)
    grid = [(n + 0.5) / GRID for n in range(GRID)]
    times = [quantile(figures.lone_ms, q) for q in grid]
    longest = 2 * lone_ms
    delays = tuple(max(idle_ms, 0.0) + t - lone_ms for t in times if t <= longest)
    long = tuple(t - lone_ms for t in times if t > longest)
    return System(
        steps=(client, half, predictor, half, rest, client),
        processes={"gateway": gateways, "predictor": predictors},
        cores=cores,
        delays_ms=delays,
        # one user always has a request under way, which meets every pause from end to end
        pauses=Pauses(figures.lone_per_s * len(long) / GRID, long or (0.0,)),
        paused="gateway",
    )


def quantile(of: Sequence[tuple[float, float]], q: float) -> float:
    """Between the known ones by lines over the logarithm of what is beyond: as tails go."""
    below = [point for point in of if point[0] <= q] or [of[0]]
    above = [point for point in of if point[0] >= q] or [of[-1]]
    (low, first), (high, last) = below[-1], above[0]
    if high <= low:
        return first
    return first + (last - first) * (_beyond(q) - _beyond(low)) / (_beyond(high) - _beyond(low))


def _beyond(q: float) -> float:
    return -math.log(max(1 - q, 0.1 / GRID))


def plan(
    per_s: float, figures: Figures, *, load_limit: float = LOAD_LIMIT, requests: int = PLANNED
) -> Plan:
    """The processes that a rate needs, each with a core of its own, and the simulated latency of
    requests that come at random.

    Args:
        requests: that are simulated.
        load_limit: share of the highest rate of every gateway and predictor, 0 to 1.

    Raises:
        ValueError: the rate or the limit is none.
    """
    if not (0 < per_s < math.inf and figures.background_share < load_limit < 1):
        raise ValueError(f"{per_s:g} requests/s at {load_limit:g} of a core can't be planned")
    needed = {
        role: math.ceil(per_s * figures.crowd_us[role] / 1e6 / (load_limit - background))
        for role, background in (("gateway", figures.background_share), ("predictor", 0.0))
    }
    logs = math.ceil(per_s / (figures.log_per_s * load_limit))
    planned = system(
        figures, gateways=needed["gateway"], predictors=needed["predictor"], cores=None
    )
    found = open_loop(quiet(planned), per_s, requests=requests)
    paused = open_loop(planned, per_s, requests=requests)
    busy_share = found.cpu_us["gateway"] * per_s / 1e6 / needed["gateway"]
    return Plan(
        per_s=per_s,
        gateways=needed["gateway"],
        predictors=needed["predictor"],
        logs=logs,
        cores=sum(needed.values()),
        busy_share=min(round(busy_share + figures.background_share, 3), 1.0),
        p50_ms=round(found.quantile_ms(50), 2),
        p99_ms=round(found.quantile_ms(99), 2),
        p999_ms=round(found.quantile_ms(99.9), 2),
        p99_paused_ms=round(paused.quantile_ms(99), 2),
    )


class Bench:
    """Gateways of one home, and k6 at them."""

    def __init__(self, world: GatewaysWorld, seconds: float, others_limit: float) -> None:
        self.world = world
        self.seconds = seconds
        self.others_limit = others_limit
        self.model = load_definition(MODEL)
        self.objectives = slo.load(slo.SHIPPED)
        self.program = k6.build()
        champion = world.rollouts.routes(MODEL).champion
        assert champion is not None
        status = world.home.serving / "status" / f"{champion.service}.json"
        self.predictor = int(json.loads(status.read_bytes())["pid"])
        running = [world.process(name).process for name in world.names]
        self.gateways = [process.pid for process in running if process is not None]
        _, self.start_s = self._client_s(lambda: self._run(1.0, 1, None, idle=True))
        before = self._cpu_s()
        time.sleep(IDLE_S)
        self.background_share = (self._cpu_s()["gateway"] - before["gateway"]) / IDLE_S

    def quiet_loop(self, *, users: int | None = None, per_s: float | None = None) -> Loop:
        """A loop in which others took no more than they may of the cores, else as little as any."""
        tries: list[Loop] = []
        while len(tries) < MAX_TRIES:
            tries.append(self.loop(users=users, per_s=per_s))
            if tries[-1].others_share <= self.others_limit:
                break
        return _printed(min(tries, key=lambda loop: loop.others_share))

    def loop(self, *, users: int | None = None, per_s: float | None = None) -> Loop:
        """A closed loop of users, or an open one at a rate."""
        began_s, busy_s, before = time.monotonic(), _busy_s(), self._cpu_s()
        found, client_s = self._client_s(lambda: self._run(self.seconds, users, per_s))
        after, wall_s = self._cpu_s(), time.monotonic() - began_s
        own_s = sum(after.values()) - sum(before.values()) + client_s
        others = max(_busy_s() - busy_s - own_s, 0.0) / (wall_s * (os.cpu_count() or 1))
        sent = found.requests * (self.seconds + WARM_UP_S) / self.seconds  # with the warm-up's
        spent = {role: after[role] - before[role] for role in after}
        spent["gateway"] -= self.background_share * wall_s
        spent["client"] = max(client_s - self.start_s, 0.0)
        return Loop(
            gateways=len(self.gateways),
            users=users,
            due_per_s=per_s,
            per_s=round(found.requests / self.seconds, 1),
            cpu_us={role: round(s / sent * 1e6, 1) for role, s in spent.items()},
            ms=found.duration_ms,
            late_p99_ms=found.late_ms["p(99)"],
            others_share=round(others, 2),
        )

    def _run(
        self, seconds: float, users: int | None, per_s: float | None, *, idle: bool = False
    ) -> Report:
        """What k6 found; idle: it starts, and sends a request a second."""
        load = runs.Load(
            surface="score",
            urls=(self.world.url,),
            key_file=self.world.home.api_key,
            stages=profiles.stages("steady", rate_per_s=per_s or 1.0, seconds=seconds),
            warm_up_s=WARM_UP_S,
            users=None if idle else users,
            quantiles=TIMES,
        )
        return runs.run(load, self.model, self.objectives, self.program)

    def _cpu_s(self) -> dict[str, float]:
        gateways = sum(processes.cpu_s(pid) for pid in self.gateways)
        return {"gateway": gateways, "predictor": processes.cpu_s(self.predictor)}

    @staticmethod
    def _client_s(act: Any) -> tuple[Any, float]:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = act()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return found, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def figures_of(
    lone: Sequence[Loop], crowd: Sequence[Loop], *, background_share: float, log_per_s: float
) -> Figures:
    """Medians of repeated loops."""
    names = [name for name in TIMES if all(name in loop.ms for loop in lone)]
    return Figures(
        alone_us=_medians([loop.cpu_us for loop in lone]),
        crowd_us=_medians([loop.cpu_us for loop in crowd]),
        users=CROWD,
        lone_ms=tuple((_share(n), statistics.median(lo.ms[n] for lo in lone)) for n in names),
        lone_per_s=statistics.median(loop.per_s for loop in lone),
        background_share=background_share,
        log_per_s=log_per_s,
    )


def beside(figures: Figures, loops: Sequence[Loop]) -> dict[str, Any]:
    """Loops of one kind, and what the simulation foretells of them."""
    first = loops[0]
    built = system(figures, gateways=first.gateways, cores=os.cpu_count())
    simulated: SimulationResult | None = None
    if first.users is not None:
        simulated = closed_loop(built, first.users)
    elif first.due_per_s is not None:
        try:
            simulated = open_loop(built, first.due_per_s, evenly=True)
        except ValueError:
            simulated = None
    measured = {
        "per_s": statistics.median(loop.per_s for loop in loops),
        "p50_ms": statistics.median(loop.ms["med"] for loop in loops),
        "p90_ms": statistics.median(loop.ms["p(90)"] for loop in loops),
        "p99_ms": statistics.median(loop.ms["p(99)"] for loop in loops),
        "gateway_us": statistics.median(loop.cpu_us["gateway"] for loop in loops),
    }
    foretold = None
    if simulated is not None:
        foretold = {
            "per_s": round(simulated.per_s, 1),
            **{f"p{p}_ms": round(simulated.quantile_ms(p), 3) for p in (50, 90, 99)},
            "gateway_us": round(simulated.cpu_us["gateway"], 1),
        }
    return {
        "gateways": first.gateways,
        "users": first.users,
        "due_per_s": first.due_per_s,
        "measured": measured,
        "p99_ms_of_each": [loop.ms["p(99)"] for loop in loops],
        "late_p99_ms": [loop.late_p99_ms for loop in loops],
        "others_share": [loop.others_share for loop in loops],
        "simulated": foretold,
        "ratio": foretold and {n: round(foretold[n] / measured[n], 2) for n in measured},
    }


def measured(seconds: float, repeats: int, others_limit: float) -> dict[str, Any]:
    """The whole report."""
    width = len(load_definition(MODEL).inputs)
    content, x = trees(width)
    found: list[dict[str, Any]] = []
    figures: Figures | None = None
    rates: list[float] = []
    for gateways in GATEWAYS:
        with tempfile.TemporaryDirectory(prefix="mlplatform-capacity-") as folder:
            world = GatewaysWorld(Path(folder), gateways)
            try:
                world.promote(world.deploy(1, write=lambda f: fraud_bundle(content, x, f)))
                bench = Bench(world, seconds, others_limit)
                loops: dict[str, list[Loop]] = {}
                for _ in range(repeats):
                    if gateways == 1:
                        loops.setdefault("lone", []).append(bench.quiet_loop(users=1))
                    loops.setdefault("crowd", []).append(bench.quiet_loop(users=CROWD))
                    rates = rates or [float(round(s * loops["crowd"][0].per_s)) for s in SHARES]
                    for rate in rates:
                        loops.setdefault(f"{rate}", []).append(bench.quiet_loop(per_s=rate))
            finally:
                world.close()
        if figures is None:
            figures = figures_of(
                loops["lone"],
                loops["crowd"],
                background_share=bench.background_share,
                log_per_s=_log_per_s(),
            )
        found += [beside(figures, same) for same in loops.values()]
    assert figures is not None
    return {
        "cores": os.cpu_count(),
        "figures": asdict(figures),
        "loops": found,
        "plan": asdict(plan(TARGET_PER_S, figures)),
        "load_limit": LOAD_LIMIT,
    }


def table(report: dict[str, Any]) -> list[str]:
    """What a person reads."""
    lines = [f"{'gateways':>8} {'loop':>12}  {'measured / simulated':>24}  p50 ms, p90, p99; ratio"]
    for row in report["loops"]:
        name = f"{row['users']} users" if row["users"] else f"{row['due_per_s']:.0f}/s"
        real, simulated = row["measured"], row["simulated"]
        if simulated is None:
            lines.append(f"{row['gateways']:>8} {name:>12}  the simulation does not keep up")
            continue
        times = ", ".join(
            f"{real[f'p{p}_ms']:.2f} / {simulated[f'p{p}_ms']:.2f} ({row['ratio'][f'p{p}_ms']:.2f})"
            for p in (50, 90, 99)
        )
        rate = f"{real['per_s']:.0f} / {simulated['per_s']:.0f} per s"
        lines.append(f"{row['gateways']:>8} {name:>12}  {rate:>24}  {times}")
    made = report["plan"]
    lines.append(
        f"{made['per_s']:.0f}/s, {report['load_limit']:.0%} of the highest rate: {made['gateways']}"
        f" gateways, {made['predictors']} predictors, {made['logs']} logs, {made['cores']} cores;"
        f" simulated p50 {made['p50_ms']}, p99 {made['p99_ms']}, p99.9 {made['p999_ms']} ms, with"
        f" this machine's pauses p99 {made['p99_paused_ms']}"
    )
    return lines


def _busy_s() -> float:
    """CPU seconds of all processes of this machine so far."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def _medians(of: Sequence[dict[str, float]]) -> dict[str, float]:
    return {role: statistics.median(one[role] for one in of) for role in of[0]}


def _share(quantile_name: str) -> float:
    if quantile_name in ("med", "max"):
        return {"med": 0.5, "max": 1.0}[quantile_name]
    return float(quantile_name[2:-1]) / 100


def _printed(loop: Loop) -> Loop:
    kind = f"{loop.users} users" if loop.users else f"{loop.due_per_s:.0f}/s"
    print(
        f"  {loop.gateways} gateways, {kind}: {loop.per_s:.0f}/s, p50 {loop.ms['med']:.2f} p99"
        f" {loop.ms['p(99)']:.2f} ms, CPU {loop.cpu_us}, others {loop.others_share:.0%}",
        flush=True,
    )
    return loop


def _log_per_s() -> float:
    entries = [entry(number) for number in range(LOG_RECORDS)]
    with tempfile.TemporaryDirectory() as folder:
        found = appended(Path(folder), entries, 64, durable=False, spilling=False)
    return float(found["rows_per_s"])


def main() -> None:
    """Measures, simulates, plans; writes build/bench/capacity.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each loop")
    parser.add_argument("--repeats", type=int, default=3, help="of each loop; medians count")
    parser.add_argument("--others-limit", type=float, default=OTHERS_LIMIT, help="0 to 1")
    parser.add_argument("--json", type=Path, default=Path("build/bench/capacity.json"))
    options = parser.parse_args()
    try:
        report = measured(options.seconds, options.repeats, options.others_limit)
    except k6.Unavailable as error:
        sys.exit(f"bench-capacity: {error}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1) + "\n")
    print("\n".join(table(report)))


if __name__ == "__main__":
    main()
