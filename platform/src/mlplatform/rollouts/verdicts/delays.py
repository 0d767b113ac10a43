"""The share of labels that have come, estimated from labels that came and from the age of requests
without one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlplatform.rollouts.verdicts.facts import Integers

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class DelayCurve:
    """The share of requests of any age that have a label of one type; one element per delay.

    Args:
        delay_ms: delays at which labels came, ascending.
        hazard: cumulative hazard up to and including that delay.
        variance: variance of the hazard.
        longest_ms: age of the oldest request; nothing is known about later labels.
    """

    delay_ms: Integers
    hazard: Floats
    variance: Floats
    longest_ms: int

    def share(self, age_ms: Integers) -> Floats:
        """The share (0-1) of the labels within `longest_ms` that come within these ages."""
        if not len(self.hazard):
            return np.full(len(age_ms), math.nan)
        after = np.concatenate(([0.0], -np.expm1(-self.hazard)))
        found: Floats = after[np.searchsorted(self.delay_ms, age_ms, side="right")] / after[-1]
        return found

    def error(self, age_ms: Integers) -> Floats:
        """Standard errors of those shares, by the delta method; 0 before the first label."""
        first = np.concatenate(([0.0], self.hazard))
        early = np.concatenate(([0.0], self.variance))
        at = np.searchsorted(self.delay_ms, age_ms, side="right")
        rest = (first[-1] - first[at]) ** 2 * early[at]
        late = first[at] ** 2 * (early[-1] - early[at])
        if not len(self.hazard):
            return np.full(len(age_ms), math.nan)
        return np.asarray(np.sqrt(rest + late) / first[-1] ** 2, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class ArrivedShare:
    """The share (0-1) of the labels within `within_ms` that is expected to have come.

    Args:
        low, high: ends of the 95 % confidence interval, as shares in [0, 1].
    """

    share: float
    low: float
    high: float
    within_ms: int


def arrived_share(
    curve: DelayCurve, age_ms: Integers, requests: Integers | None = None
) -> ArrivedShare | None:
    """The share of labels expected for requests of these ages; None if no label has come.

    Args:
        requests: number of requests of each age; None means one of each.
    """
    counted = len(age_ms) if requests is None else int(requests.sum())
    if not len(curve.hazard) or not counted:
        return None

    def mean(values: Floats) -> float:
        found = values.mean() if requests is None else (values * requests).sum() / counted
        return float(found)

    share = mean(curve.share(age_ms))
    error = 1.96 * mean(curve.error(age_ms))  # upper bound, as if fully correlated
    low, high = max(share - error, 0.0), min(share + error, 1.0)
    return ArrivedShare(share, low, high, curve.longest_ms)


def counted_curve(
    age_ms: Integers, without: Integers, delay_ms: Integers, events: Integers
) -> DelayCurve:
    """The curve of one type of label, from counts.

    Args:
        age_ms: present ages of the requests.
        without: number of requests of each age that have no such label.
        delay_ms: delays of the labels, ascending.
        events: number of labels with each delay.

    Source: Kaplan and Meier (1958), Nonparametric estimation from incomplete observations, as the
    product of 1 - d / n over the delays; Greenwood (1926) for the variance. Requests that never get
    such a label stay at risk, so the curve ends at the share of those that do.
    """
    order = np.argsort(age_ms)
    younger = np.concatenate(([0], np.cumsum(without[order])))
    waiting = younger[-1] - younger[np.searchsorted(age_ms[order], delay_ms, side="left")]
    at_risk = waiting + np.cumsum(events[::-1])[::-1]
    some = at_risk > events  # otherwise the product would end at 0
    delays, events, at_risk = delay_ms[some], events[some], at_risk[some]
    hazard = np.cumsum(-np.log1p(-events / at_risk))
    variance = np.cumsum(events / (at_risk * (at_risk - events)))
    longest = int(age_ms.max()) if len(age_ms) else 0
    return DelayCurve(delays, hazard, variance, longest)
