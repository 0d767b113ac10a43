"""Kubernetes' HorizontalPodAutoscaler as arithmetic, for simulating a policy.

Source: Kubernetes documentation, "Horizontal Pod Autoscaling", sections "Algorithm details",
"Configurable scaling behavior" and "Stabilization window"; the order of its steps (metrics,
stabilization, policies, limits) is that of the autoscaling/v2 controller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TOLERANCE = 0.1
SYNC_S = 15


@dataclass(frozen=True, slots=True)
class Metric:
    """A value read now, and what it is held to."""

    value: float
    target: float
    is_average: bool
    """Whether the target is for one pod (AverageValue), not for all of them (Value)."""


def wanted(current: int, metrics: Sequence[Metric | None]) -> int:
    """Pods that the metrics ask for, before limits: the most that any of them does.

    Args:
        metrics: None for one that could not be read; then nothing is scaled down.
    """
    asked = [_wanted(current, metric) for metric in metrics if metric is not None]
    most = max(asked, default=current)
    return max(most, current) if len(asked) < len(metrics) else most


def _wanted(current: int, metric: Metric) -> int:
    pods = 1 if not metric.is_average else current
    ratio = metric.value / (metric.target * pods)
    if abs(ratio - 1) <= TOLERANCE:
        return current
    # The guard against rounding is the controller's: 3.0000000004 pods are 3.
    return math.ceil(ratio * current - 1e-9)


@dataclass(slots=True)
class Autoscaler:
    """One autoscaler's memory: recommendations for its windows, changes for its policies.

    Args:
        behavior: `spec.behavior` of an autoscaling/v2 object.
    """

    minimum: int
    maximum: int
    behavior: Mapping[str, Any]
    _recommended: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def next(self, now_s: float, current: int, metrics: Sequence[Metric | None]) -> int:
        """Pods from now on; called every `SYNC_S` seconds, with rising times."""
        desired = wanted(current, metrics)
        stable = self._stabilized(now_s, current, desired)
        limited = self._limited(now_s, current, stable)
        chosen = min(max(limited, self.minimum), self.maximum)
        if chosen != current:
            self._changes.append((now_s, chosen - current))
        return chosen

    def _stabilized(self, now_s: float, current: int, desired: int) -> int:
        """The lowest recommendation of the window upwards, the highest of the one downwards."""
        up_s, down_s = (
            float(self.behavior[way]["stabilizationWindowSeconds"])
            for way in ("scaleUp", "scaleDown")
        )
        oldest_s = now_s - max(up_s, down_s)
        self._recommended = [(t, n) for t, n in self._recommended if t > oldest_s]
        least = min([n for t, n in self._recommended if t > now_s - up_s], default=desired)
        most = max([n for t, n in self._recommended if t > now_s - down_s], default=desired)
        self._recommended.append((now_s, desired))
        return min(max(current, min(least, desired)), max(most, desired))

    def _limited(self, now_s: float, current: int, stable: int) -> int:
        if stable > current:
            limits = [self._most(now_s, current, p) for p in self.behavior["scaleUp"]["policies"]]
            return min(stable, max(limits))
        if stable < current:
            limits = [
                self._least(now_s, current, p) for p in self.behavior["scaleDown"]["policies"]
            ]
            return max(stable, min(limits))
        return current

    def _most(self, now_s: float, current: int, policy: Mapping[str, Any]) -> int:
        start = self._at_start(now_s, current, policy)
        if policy["type"] == "Pods":
            return start + int(policy["value"])
        return math.ceil(start * (1 + policy["value"] / 100))

    def _least(self, now_s: float, current: int, policy: Mapping[str, Any]) -> int:
        start = self._at_start(now_s, current, policy)
        if policy["type"] == "Pods":
            return start - int(policy["value"])
        return int(start * (1 - policy["value"] / 100))

    def _at_start(self, now_s: float, current: int, policy: Mapping[str, Any]) -> int:
        """Pods when the policy's period began."""
        since = now_s - policy["periodSeconds"]
        return current - sum(change for t, change in self._changes if t > since)
