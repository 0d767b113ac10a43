"""How many cores a rate needs, from the CPU that a request costs, checked against a measured point.

Each gateway process is one server with a queue: requests reach it at random (Poisson), each takes
the measured CPU time, spread as a gamma distribution. What a request waits for besides (the
predictor, the log's commit) is the latency that was measured with one connection.

Source: D. V. Lindley, "The theory of queues with a single server" (1952), for the recursion.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

SEED, REQUESTS = 5, 400_000
SPREAD = 0.5  # standard deviation of the service time over its mean: most requests do the same
TARGET_RATE, TARGET_P99_MS = 50_000, 10.0
BUSY_SHARES = (0.4, 0.5, 0.6, 0.7, 0.8)


@dataclass(frozen=True, slots=True)
class Plan:
    """Processes, one core each, that carry a rate.

    Args:
        p99_ms: simulated, of a request to its logged answer.
    """

    rate: float
    busy_share: float
    gateways: int
    predictors: int
    p99_ms: float


def waits_s(rate: float, service_s: float, *, seed: int = SEED) -> np.ndarray[Any, Any]:
    """Simulated waiting time of each request at one server, in seconds.

    Raises:
        ValueError: the server can't keep up with the rate.
    """
    if rate * service_s >= 1:
        raise ValueError(f"{rate:.0f} requests/s of {service_s * 1e6:.0f} us are more than a core")
    rng = np.random.default_rng(seed)
    shape = 1 / SPREAD**2
    steps = rng.gamma(shape, service_s / shape, REQUESTS) - rng.exponential(1 / rate, REQUESTS)
    walk = np.cumsum(steps)
    # Lindley's recursion W' = max(0, W + S - A) in closed form
    floor = np.minimum.accumulate(np.minimum(walk, 0))
    return np.concatenate(([0.0], (walk - floor)[:-1]))


def p99_ms(rate: float, service_s: float, base_ms: float) -> float:
    """Simulated 99th percentile of a request at one gateway process."""
    return base_ms + float(np.percentile(waits_s(rate, service_s), 99)) * 1000


def plan(
    rate: float, gateway_s: float, predictor_s: float, base_ms: float, limit_ms: float
) -> Plan | None:
    """The fewest processes with which the simulated p99 stays below the limit, if any do."""
    found = None
    for share in BUSY_SHARES:
        gateways = math.ceil(rate * gateway_s / share)
        predictors = math.ceil(rate * predictor_s / share)
        p99 = p99_ms(rate / gateways, gateway_s, base_ms)
        if p99 <= limit_ms:
            found = Plan(rate, share, gateways, predictors, round(p99, 2))
    return found


def main() -> None:
    """Reads build/bench/scoring.json; prints the measured point, the simulated one and the plan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, nargs="?", default=Path("build/bench/scoring.json"))
    options = parser.parse_args()
    report = json.loads(options.report.read_text())
    contenders = report["contenders"]
    loaded = max(
        (f for name, f in contenders.items() if name.startswith("path_c")), key=lambda f: f["rps"]
    )
    cost_us = loaded["cpu_us_per_request"]
    gateway_s, predictor_s = cost_us["gateway"] / 1e6, cost_us["predictor"] / 1e6
    base_ms = contenders["path_c1"]["p50_ms"]
    point = report["open_loop"]["path"]
    busy = point["rate"] * gateway_s
    simulated = p99_ms(point["rate"], gateway_s, base_ms) if busy < 1 else None
    found = plan(TARGET_RATE, gateway_s, predictor_s, base_ms, TARGET_P99_MS)
    result = {
        "cpu_us_per_request": cost_us,
        "measured": {
            "rate": point["rate"],
            "busy_share": round(busy, 3),
            "p99_ms": point["p99_ms"],
        },
        "simulated_p99_ms": simulated and round(simulated, 3),
        "plan": found and asdict(found),
    }
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
