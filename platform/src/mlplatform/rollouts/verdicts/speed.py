"""Gates of speed: slower than the champion, or too slow for all of the traffic."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from mlplatform.rollouts.verdicts.clusters import clusters, customer_days, outages
from mlplatform.rollouts.verdicts.statistics import Difference, share_difference
from mlplatform.rollouts.verdicts.verdict import (
    Bound,
    Errors,
    Gate,
    Harm,
    bounded,
    difference_values,
    number_of,
    sure,
)
from mlplatform.rollouts.verdicts.window import Traffic
from mlplatform.runtime.figures import percent

RATE_WINDOW_MS = 10_000
MINIMUM_CALLS = 30
MOST_LEVERAGE = 0.5
"""Of one call on the slope: a pause during the only large call would be the cost of a row."""


def latency_gate(traffic: Traffic, quantile: float, bound: Bound, errors: Errors) -> Gate:
    """A quantile of the challenger's latency over the champion's, in canary.

    The quantile is more than r times the champion's where more of the challenger's answers than
    1 - quantile take longer than r times the champion's quantile; the share of such answers is
    compared with the champion's own share above its quantile, so that both arms' noise counts.

    Source: the duality of quantiles and shares, as in Howard and Ramdas (2022), Sequential
    estimation of quantiles.
    """
    name = f"latency_p{100 * quantile:g}"
    timed = (traffic.latency_us >= 0) & ~traffic.excused
    mine, other = timed & traffic.challenger, timed & ~traffic.challenger
    if not (mine.any() and other.any()):
        reason = "no latency of both arms was recorded"
        return Gate(name, bound.verdict(math.nan, math.nan), reason, {})
    theirs_us = max(float(np.quantile(traffic.latency_us[other], quantile)), 1.0)
    own_us = float(np.quantile(traffic.latency_us[mine], quantile))

    keys = (customer_days(traffic), outages(traffic))

    def excess(ratio: float) -> Difference:
        # ties with the champion's quantile count as slow: they must not make the challenger look so
        slow = np.where(
            traffic.challenger,
            traffic.latency_us > ratio * theirs_us,
            traffic.latency_us >= theirs_us,
        )
        views = [clusters(key, traffic.challenger, timed, slow) for key in keys]
        return share_difference(views, stop_error=errors.stop, pass_error=errors.missed)

    at_limit = excess(bound.limit)
    seen = (
        f"p{100 * quantile:g} of {int(mine.sum()):,} answers was {own_us / 1000:.1f} ms, the "
        f"champion's {theirs_us / 1000:.1f} ms: {own_us / theirs_us:.2f} times"
    )
    values: dict[str, float | int | None] = {
        "challenger_us": number_of(own_us),
        "champion_us": number_of(theirs_us),
        "ratio": number_of(own_us / theirs_us),
        "limit_ratio": bound.limit,
        "tolerance_ratio": bound.tolerance,
    }
    if at_limit.stop_low > 0:
        reason = f"{seen}, more than {bound.limit:g} times with {sure(errors.stop)}"
        return Gate(name, "UNHEALTHY", reason, values | difference_values(at_limit))
    if bound.tolerance is None:
        return Gate(name, "HEALTHY", seen, values)
    at_tolerance = excess(bound.tolerance)
    if at_tolerance.pass_high <= 0:
        reason = f"{seen}, less than {bound.tolerance:g} times with {sure(errors.missed)}"
        return Gate(name, "HEALTHY", reason, values | difference_values(at_tolerance))
    reason = f"{seen}; less than {bound.tolerance:g} times is not shown yet"
    return Gate(name, "INCONCLUSIVE", reason, values | difference_values(at_tolerance))


def utilisation_gate(traffic: Traffic, bound: Bound, errors: Errors, pods: int) -> Gate:
    """How busy the challenger would be with all of the traffic, from its shadow calls.

    What a row costs is the time for one more row in a call (the slope of latency over rows); at the
    rate of the champion's busiest ten seconds it gives the share of time that a pod computes. Calls
    wait for one another, so the cost is, if anything, told too high. The whole of a call's time
    over its rows bounds it from above, also where all calls carried as many.
    """
    name = "utilisation"
    rows, latency_s = _calls(traffic)
    rate = _peak_rate(traffic)
    if len(rows) < MINIMUM_CALLS or not rate:
        reason = f"{len(rows)} calls of the challenger, {MINIMUM_CALLS} needed to know its speed"
        return Gate(name, "INCONCLUSIVE", reason, {"calls": len(rows)})
    slope, slope_error = _slope(rows, latency_s)
    whole = latency_s / rows
    stop, wide = (
        math.sqrt(2 * math.log(1 / share) + math.log(len(rows) + 1))
        for share in (errors.stop, errors.missed)
    )
    whole_high = float(whole.mean() + wide * whole.std() / math.sqrt(len(whole)))
    load = rate / pods
    low, high = 0.0, whole_high * load
    cost = float(whole.mean())
    if math.isfinite(slope):
        low = max(slope - stop * slope_error, 0.0) * load
        high = min(max(slope, 0.0) + wide * slope_error, whole_high) * load
        cost = min(max(slope, 0.0), cost)
    seen = (
        f"a row takes {1000 * cost:.2f} ms; at {rate:,.0f} requests/s, the busiest "
        f"{RATE_WINDOW_MS // 1000} s, {_pods(pods)} would be busy {percent(cost * load)}"
    )
    values: dict[str, float | int | None] = {
        "share": number_of(cost * load), "low": number_of(low), "high": number_of(high),
        "row_us": number_of(1e6 * cost), "rate_per_s": number_of(rate), "pods": pods,
        "calls": len(rows),
    }  # fmt: skip
    shown = f"at most {percent(high)}"
    harm = Harm(seen, f"at least {percent(low)}", shown, low, high, percent)
    return bounded(name, harm, bound, errors, values)


def _calls(traffic: Traffic) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Rows and seconds of each call that carried copies and answered."""
    carried = (traffic.batch >= 0) & (traffic.latency_us >= 0) & ~traffic.failed
    _, first, counts = np.unique(traffic.batch[carried], return_index=True, return_counts=True)
    return counts.astype(float), traffic.latency_us[carried][first] / 1e6


def _peak_rate(traffic: Traffic) -> float:
    decided_ms = traffic.recorded_ms[~traffic.challenger]
    if not len(decided_ms):
        return 0.0
    counts = np.unique(decided_ms // RATE_WINDOW_MS, return_counts=True)[1]
    return float(counts.max()) / (RATE_WINDOW_MS / 1000)


def _slope(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Least squares with the standard error HC3 of MacKinnon and White (1985).

    NaN where all x are the same, or where one call alone decides the slope: then nothing is known.
    """
    centred = x - x.mean()
    spread = float((centred**2).sum())
    if spread <= 0:
        return math.nan, math.nan
    leverage = 1 / len(x) + centred**2 / spread
    if leverage.max() > MOST_LEVERAGE:
        return math.nan, math.nan
    slope = float((centred * y).sum() / spread)
    residuals = (y - y.mean() - slope * centred) / (1 - leverage)
    error = math.sqrt(float((centred**2 * residuals**2).sum())) / spread
    return slope, error


def _pods(count: int) -> str:
    return "one pod" if count == 1 else f"{count} pods"
