"""How records of both arms are put into clusters, of which each counts as one observation."""

from __future__ import annotations

import numpy as np

from mlplatform.rollouts.verdicts.statistics import Clusters
from mlplatform.rollouts.verdicts.window import MOMENT_MS, Flags, Integers, Traffic

DAY_MS = 86_400_000
OUTAGE_MS = 600_000
"""Failures within ten minutes of wall time may be one outage: they count as one event."""
OUTAGES_PER_STEP = 1000
"""A short step is cut into shorter pieces than that: of one piece nothing could be learned."""


def clusters(keys: Integers, challenger: Flags, trials: Flags, hits: Flags) -> Clusters:
    """Hits among trials of both arms, by these keys."""
    mine, other = trials & challenger, trials & ~challenger
    return Clusters(*_counts(keys, mine & hits, mine, other & hits, other))


def paired(units: Integers, hits: Flags, other_hits: Flags, trials: Flags) -> Clusters:
    """Hits of both arms on the same trials, by unit."""
    return Clusters(*_counts(units, hits, trials, other_hits, trials))


def _counts(keys: Integers, *flags: Flags) -> list[Integers]:
    found, inverse = np.unique(keys, return_inverse=True)
    counts = (np.bincount(inverse[flag], minlength=len(found)) for flag in flags)
    return [count.astype(np.int64) for count in counts]


def customer_days(traffic: Traffic) -> Integers:
    """A number for each customer and day of event time."""
    days = traffic.event_ms // DAY_MS
    days = days - days.min() if len(days) else days
    numbers = np.unique(traffic.unit, return_inverse=True)[1]
    return np.asarray(numbers * (days.max() + 1) + days if len(days) else numbers, dtype=np.int64)


def outages(traffic: Traffic) -> Integers:
    """A number for each stretch of wall time within which failures may be one outage."""
    if not len(traffic):
        return traffic.recorded_ms
    span_ms = int(traffic.recorded_ms.max() - traffic.recorded_ms.min())
    piece_ms = min(max(span_ms // OUTAGES_PER_STEP, MOMENT_MS), OUTAGE_MS)
    return traffic.recorded_ms // piece_ms
