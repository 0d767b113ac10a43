"""Predictors of one version through a day, as arithmetic: what an autoscaler sees and does.

A pod answers like a queue with one server: with a share r of its capacity asked for, r²/(1 - r)
requests wait and the 99th percentile is ln(100) service times over (1 - r). What cannot be answered
waits in a line that has a limit for each pod; what comes on top is refused, as by the predictor.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from support.horizontal_autoscaler import SYNC_S, Autoscaler, Metric

SCRAPE_S = 15
WINDOW_S = 60
"""Of the rate behind the latency: its p99 is that of the worst seconds within."""
MOST = 0.98
"""Share of its capacity that a pod is asked for, at which the formulas stop and the line begins."""


@dataclass(frozen=True, slots=True)
class Pods:
    """What a pod can do, and how long a new one takes."""

    rate_per_s: float
    queue_requests: int
    start_s: int


@dataclass(slots=True)
class Day:
    """What happened, by second."""

    pods: list[int] = field(default_factory=list)
    waiting_a_pod: list[float] = field(default_factory=list)
    latency_p99_ms: list[float] = field(default_factory=list)
    refused: float = 0.0
    asked: float = 0.0

    @property
    def pod_hours(self) -> float:
        return sum(self.pods) / 3600

    def swings(self, within_s: int = 1800) -> int:
        """Times that a pod was taken away and one was needed again soon after."""
        changes = [
            (t, self.pods[t] - self.pods[t - 1])
            for t in range(1, len(self.pods))
            if self.pods[t] != self.pods[t - 1]
        ]
        return sum(
            a < 0 < b and t - s <= within_s for (s, a), (t, b) in itertools.pairwise(changes)
        )


LatencyMetric = Callable[[float], Metric]


def live(
    per_s: Sequence[float],
    pods: Pods,
    autoscaler: Autoscaler,
    queued: float,
    latency: LatencyMetric,
    blind: range = range(0),
) -> Day:
    """A day of that many requests in each second.

    Args:
        queued: target of requests that wait in one pod.
        latency: from the 99th percentile in ms to what the autoscaler reads.
        blind: seconds in which Prometheus answers nothing.
    """
    day, count = Day(), autoscaler.minimum
    ready_at: deque[int] = deque([-1] * count)
    line, scraped = 0.0, (0.0, 0.0)
    for now, asked in enumerate(per_s):
        ready = max(1, sum(at <= now for at in ready_at))
        line = _second(day, asked, ready, line, pods)
        day.pods.append(count)
        if now % SCRAPE_S == 0:
            worst = max(day.latency_p99_ms[-WINDOW_S:])
            scraped = (day.waiting_a_pod[-1] * ready, worst)
        if now % SYNC_S == SYNC_S - 1:
            seen = None if now in blind else scraped
            metrics = (
                [None, latency(math.nan)]
                if seen is None
                else [Metric(seen[0], queued, is_average=True), latency(seen[1])]
            )
            count = autoscaler.next(now, count, metrics)
            while len(ready_at) > count:
                ready_at.pop()
            while len(ready_at) < count:
                ready_at.append(now + pods.start_s)
    return day


def _second(day: Day, asked: float, ready: int, line: float, pods: Pods) -> float:
    capacity = ready * pods.rate_per_s
    line += asked - capacity
    refused = max(0.0, line - ready * pods.queue_requests)
    line = max(0.0, line - refused)
    share = min(asked / capacity, MOST)
    waiting = share * share / (1 - share) + line / ready
    served_ms = 1000 / pods.rate_per_s
    day.waiting_a_pod.append(waiting)
    day.latency_p99_ms.append(math.log(100) * served_ms / (1 - share) + 1000 * line / capacity)
    day.asked += asked
    day.refused += refused
    return line
