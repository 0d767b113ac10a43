"""Whether a bundle raises alerts on far more customers than planned, decided while it answers.

A gateway counts the decisions of each arm in its own process. Once the excess is proven, it stops
asking the arm. It does not wait for a pass, a label or the log.
"""

from __future__ import annotations

import math
from array import array
from typing import Final

import msgspec

from mlplatform.model.policies.decision_scale import DecisionScale, VolumeLimit
from mlplatform.runtime.figures import percent

RAISED: Final = 2.0
"""Multiple of the limit with which the evidence compares the limit. Shares between the limit and
about 1.45 times the limit are never proven."""


class VolumeStop(msgspec.Struct, frozen=True):
    """The reason why an arm is no longer asked.

    Args:
        reason: a sentence for people.
        share: share of the customers counted since the evidence began who got the decision.
        limit: the allowed share.
    """

    reason: str
    share: float
    limit: float


class Excess:
    """Evidence that a share is above its limit, kept at every event (an e-CUSUM).

    However long a share stays at its limit, and however its events depend on earlier ones, `add`
    returns True once in `events` events on average, at most.

    Source: Shin, Ramdas and Rinaldo, E-detectors: a nonparametric framework for sequential change
    detection (2023), definition 2.2 and theorem 2.4; the increment is the likelihood ratio of two
    Bernoulli variables.

    Args:
        limit: the allowed share, more than 0 and less than 1.
        events: least average number of events between two false alarms, if the share equals the
            limit.
    """

    __slots__ = ("_down", "_log_e", "_threshold", "_up", "events", "hits", "limit")

    def __init__(self, limit: float, events: float) -> None:
        raised = min(RAISED * limit, (1 + limit) / 2)
        self._up = math.log(raised / limit)
        self._down = math.log((1 - raised) / (1 - limit))
        self._threshold = math.log(events)
        self._log_e = 0.0
        self.limit = limit
        self.events = self.hits = 0

    def add(self, is_hit: bool) -> bool:
        """Add one event. Returns whether the excess is proven now."""
        self.events += 1
        if is_hit:
            self.hits += 1
            self._log_e += self._up
            return self._log_e >= self._threshold
        self._log_e += self._down
        if self._log_e <= 0:
            self._log_e = 0.0
            self.events = self.hits = 0
        return False


class DecisionVolume:
    """The decisions of one arm in this process. Once it is stopped, it stays so until somebody
    clears it.

    A customer counts once within `once_per_s`, so that one customer alone stops nothing.

    Args:
        buckets: number of groups of customers; all customers of one group count as one.
    """

    __slots__ = (
        "_alerts",
        "_buckets",
        "_counted_s",
        "_has_evidence",
        "_limit",
        "_names",
        "_watched",
        "stopped",
    )

    def __init__(self, limit: VolumeLimit, scale: DecisionScale, buckets: int) -> None:
        self._limit, self._alerts = limit, frozenset(scale.alerts)
        self._buckets = buckets
        self._names = scale.alerts
        self.stopped: VolumeStop | None = None
        self.clear()

    def clear(self) -> None:
        """Ask the arm again, with no evidence against it."""
        limit = self._limit
        each = (1.0 + len(limit.shares)) * limit.decisions_per_false_stop  # any may be wrong
        watched = [((name,), Excess(share, each)) for name, share in limit.shares.items()]
        self._watched = (*watched, (self._names, Excess(limit.alert_share, each)))
        self._has_evidence = False
        self._counted_s = array("d", [-math.inf]) * self._buckets
        self.stopped = None

    def count(self, bucket: int, decision: str, now_s: float) -> bool:
        """Count a decision of this arm. Returns whether this one stops the arm.

        Args:
            bucket: the customer's group, 0 to `buckets` - 1.
            now_s: seconds of a clock that never goes back.
        """
        if now_s - self._counted_s[bucket] < self._limit.once_per_s or self.stopped is not None:
            return False
        self._counted_s[bucket] = now_s
        if not self._has_evidence and decision not in self._alerts:
            return False  # no evidence, and this adds none: most decisions end here
        self._has_evidence = False
        for names, seen in self._watched:
            if seen.add(decision in names) and self.stopped is None:
                self.stopped = _stop(names, seen)
            self._has_evidence |= seen.hits > 0
        return self.stopped is not None


def _stop(names: tuple[str, ...], seen: Excess) -> VolumeStop:
    share = seen.hits / seen.events
    decided = f"decided {' or '.join(names)} for {seen.hits} of {seen.events} customers"
    allowed = f"at most {percent(seen.limit)} are allowed"
    return VolumeStop(f"{decided} ({percent(share)}); {allowed}", share, seen.limit)
