"""How many processes a rate needs, by a queue whose speed depends on how many are in it.

A gateway with its log and its predictor is one server. With n requests inside it completes as many
a second as the closed loop measured with n connections: so a lone request is slow and dear, a
crowd, whose records and rows travel together, quick and cheap. Requests come at random for a plan,
and evenly for the check, as the open loop's client sends them.

Source: K. M. Chandy, U. Herzog and L. Woo, "Parametric analysis of queuing networks" (1975), for
the flow-equivalent server.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

SEED, REQUESTS = 5, 200_000
TARGET_RATE, TARGET_P99_MS = 50_000, 10.0
BUSY_SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
MAX_INSIDE = 10_000


@dataclass(frozen=True, slots=True)
class Speed:
    """Requests a second that are completed with so many inside: measured points, and straight
    lines between them. Beyond the last it stays what it was."""

    inside: tuple[float, ...]
    per_s: tuple[float, ...]

    @classmethod
    def measured(cls, points: Sequence[tuple[int, float]]) -> Speed:
        """From (connections, requests/s); more inside is never slower than fewer."""
        ordered = sorted(points)
        best = np.maximum.accumulate([per_s for _, per_s in ordered])
        return cls((0.0, *(float(n) for n, _ in ordered)), (0.0, *map(float, best)))

    @property
    def highest(self) -> float:
        return self.per_s[-1]

    def table(self) -> list[float]:
        """By the number inside, up to where it stays the same."""
        counts = np.arange(int(self.inside[-1]) + 1)
        return [float(value) for value in np.interp(counts, self.inside, self.per_s)]


@dataclass(frozen=True, slots=True)
class Plan:
    """Processes, one core each, that carry a rate.

    Args:
        busy_share: of the highest rate that a gateway was measured at.
        p99_ms: simulated, of a request to its logged answer.
    """

    rate: float
    busy_share: float
    gateways: int
    predictors: int
    p99_ms: float


def times_s(
    rate: float, speed: Speed, *, evenly: bool = False, seed: int = SEED, requests: int = REQUESTS
) -> np.ndarray[Any, Any]:
    """Simulated time of each request from its arrival to its answer, in seconds.

    Raises:
        ValueError: the server can't keep up with the rate.
    """
    if rate >= speed.highest:
        raise ValueError(f"{rate:.0f} requests/s are more than {speed.highest:.0f}")
    rng = np.random.default_rng(seed)
    gaps = np.full(requests, 1 / rate) if evenly else rng.exponential(1 / rate, requests)
    works = iter(rng.exponential(1.0, 2 * requests))  # at most one an event
    arrivals, table, last = np.cumsum(gaps), speed.table(), len(speed.table()) - 1
    inside: deque[float] = deque()
    taken = []
    now_s = 0.0
    for arrival_s in arrivals:
        while inside:
            end_s = now_s + next(works) / table[min(len(inside), last)]
            if end_s > arrival_s:  # what is left of it is as long as a new one: it has no memory
                break
            now_s = end_s
            taken.append(now_s - inside.popleft())
        now_s = float(arrival_s)
        inside.append(now_s)
        if len(inside) > MAX_INSIDE:
            raise ValueError(f"more than {MAX_INSIDE} requests wait at {rate:.0f} a second")
    return np.array(taken)


def p99_ms(rate: float, speed: Speed, *, evenly: bool = False) -> float:
    """Simulated 99th percentile of a request at one gateway process."""
    return float(np.percentile(times_s(rate, speed, evenly=evenly), 99)) * 1000


def plan(rate: float, speed: Speed, predictor_s: float, limit_ms: float) -> Plan | None:
    """The fewest processes with which the simulated p99 stays below the limit, if any do.

    Args:
        predictor_s: processor time of a predictor for each request.
    """
    found = None
    for share in BUSY_SHARES:
        gateways = math.ceil(rate / (share * speed.highest))
        predictors = math.ceil(rate * predictor_s / share)
        p99 = p99_ms(rate / gateways, speed)
        if p99 <= limit_ms:
            found = Plan(rate, share, gateways, predictors, round(p99, 2))
    return found


def main() -> None:
    """Reads build/bench/scoring.json; prints the measured point, the simulated one and the plan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, nargs="?", default=Path("build/bench/scoring.json"))
    options = parser.parse_args()
    report = json.loads(options.report.read_text())
    runs = {n: f for n, f in report["contenders"].items() if n.startswith("path_c")}
    speed = Speed.measured([(f["connections"], f["rps"]) for f in runs.values()])
    loaded = max(runs.values(), key=lambda f: f["rps"])
    cost_us = loaded["cpu_us_per_request"]
    point = report["open_loop"]["path"]
    can = point["rate"] < speed.highest
    simulated = times_s(point["rate"], speed, evenly=True) * 1000 if can else None
    found = plan(TARGET_RATE, speed, cost_us["predictor"] / 1e6, TARGET_P99_MS)
    result = {
        "requests_per_s_by_connections": {f["connections"]: f["rps"] for f in runs.values()},
        "cpu_us_per_request": cost_us,
        "measured": {name: point[name] for name in ("rate", "p50_ms", "p99_ms", "p999_ms")},
        "simulated": None
        if simulated is None
        else {
            f"{name}_ms": round(float(np.percentile(simulated, q)), 3)
            for name, q in (("p50", 50), ("p99", 99), ("p999", 99.9))
        },
        "plan": found and asdict(found),
    }
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
