"""Gates on speed: a challenger slower than the champion, or too slow for all of the traffic."""

from __future__ import annotations

import math

from mlplatform.learning.validation.report_entries import NOTHING_YET
from mlplatform.rollouts.verdicts.aggregates import RATE_WINDOW_MS, Aggregates, Calls
from mlplatform.rollouts.verdicts.latencies import EDGES
from mlplatform.rollouts.verdicts.statistics import Difference, share_difference
from mlplatform.rollouts.verdicts.verdict import (
    NOT_ASKED,
    Bound,
    Errors,
    Gate,
    Harm,
    certainty_text,
    difference_values,
    harm_gate,
    in_percent,
    number_of,
    rounded,
)

MINIMUM_CALLS = 30
MOST_LEVERAGE = 0.5
"""Most leverage of one call on the slope: a pause during the only large call would pass for the
cost of a row."""


IMMATERIAL_SHARE = 0.05
"""Share of the model's latency goal by which an arm may be slower without harm. The arm of a small
share answers from colder caches; that alone is a quarter of an answer within a millisecond."""


def harmful_ratio(ratio: float, champion_us: float, immaterial_us: float) -> float:
    """The least ratio to the champion's latency that does harm: the bound's, or more if that
    difference is immaterial."""
    return max(ratio, 1 + immaterial_us / champion_us)


def latency_gate(
    seen: Aggregates, quantile: float, bound: Bound, errors: Errors, *, immaterial_us: float = 0.0
) -> Gate:
    """The gate on a quantile of the challenger's latency over the champion's, in canary.

    Args:
        immaterial_us: microseconds by which it may be higher, whatever the bound says.

    The quantile is more than r times the champion's where more of the challenger's answers take
    longer than r times x than of the champion's take x, with x at the champion's quantile; the two
    shares are compared, so that both arms' noise counts. That holds at any x near the quantile: it
    is the edge of the bin in which the quantile lies, and r times x is rounded to an edge against
    what is to be proven.

    Source: Howard and Ramdas (2022), Sequential estimation of quantiles: duality with shares.
    """
    name, found = f"latency_p{100 * quantile:g}", seen.latencies
    if found is None or not found.answers.any(axis=1).all():
        reason = f"{NOTHING_YET}: one of the two arms has answered nothing."
        return Gate(name, bound.verdict(math.nan, math.nan), reason, {})
    own, theirs = found.quantile(0, quantile), found.quantile(1, quantile)
    own_us, theirs_us = float(EDGES[own]), max(float(EDGES[theirs]), 1.0)

    def ratio_in_force(ratio: float) -> tuple[float, str]:
        harmful = harmful_ratio(ratio, theirs_us, immaterial_us)
        if harmful > ratio:
            return harmful, f"{immaterial_us / 1000:g} ms above the champion's"
        return ratio, f"{ratio:g} times the champion's"

    def excess(ratio: float, *, whole: bool) -> Difference:
        above = int(EDGES.searchsorted(ratio * theirs_us, side="right"))
        views = found.slow(above - whole, theirs)
        return share_difference(views, stop_error=errors.stop, pass_error=errors.missed)

    limit, more = ratio_in_force(bound.limit)
    tolerance, less = ratio_in_force(bound.tolerance) if bound.tolerance is not None else (None, "")
    at_limit = excess(limit, whole=False)
    answers, others = (int(found.answers[arm].sum()) for arm in (0, 1))
    usual = "usual latency" if quantile == 0.5 else "latency in its slowest answers"
    what = f"The challenger's {usual} (p{100 * quantile:g})"
    figures = (
        f"It was {own_us / 1000:.1f} ms in {answers:,} answers; the champion's was "
        f"{theirs_us / 1000:.1f} ms in {others:,} answers (a ratio of {own_us / theirs_us:.2f})."
    )
    values: dict[str, float | int | None] = {
        "challenger_us": number_of(own_us),
        "champion_us": number_of(theirs_us),
        "ratio": number_of(own_us / theirs_us),
        "limit_ratio": number_of(limit),
        "tolerance_ratio": number_of(tolerance) if tolerance is not None else None,
    }
    if at_limit.stop_low > 0:
        reason = f"{what} is more than {more} ({certainty_text(errors.stop)}). {figures}"
        return Gate(name, "UNHEALTHY", reason, values | difference_values(at_limit))
    if tolerance is None:
        reason = f"{what} is not proven to be more than {more}. {figures} {NOT_ASKED}"
        return Gate(name, "HEALTHY", reason, values)
    at_tolerance = excess(tolerance, whole=True)
    if at_tolerance.pass_high <= 0:
        reason = f"{what} is less than {less} ({certainty_text(errors.missed)}). {figures}"
        return Gate(name, "HEALTHY", reason, values | difference_values(at_tolerance))
    reason = (
        f"{what} may still be {less} or more. {figures} "
        f"This step needs proof that it is less ({certainty_text(errors.missed)})."
    )
    return Gate(name, "INCONCLUSIVE", reason, values | difference_values(at_tolerance))


def utilisation_gate(seen: Aggregates, bound: Bound, errors: Errors, pods: int) -> Gate:
    """The gate on utilisation: the share of time that the challenger's pods would compute with all
    of the traffic, from its shadow calls.

    What a row costs is the time for one more row in a call (the slope of latency over rows); at the
    rate of the champion's busiest ten seconds it gives the share of time that a pod computes. Calls
    wait for one another, so the cost is, if anything, overstated. The whole of a call's time
    over its rows bounds it from above, also where all calls carried as many.
    """
    name, rate = "utilisation", seen.busiest / (RATE_WINDOW_MS / 1000)
    calls = sum(number for number, _, _ in seen.calls.values())
    if calls < MINIMUM_CALLS or not rate:
        reason = (
            f"The challenger's speed is not known yet: it has had {calls} calls, and "
            f"{MINIMUM_CALLS} are needed."
        )
        return Gate(name, "INCONCLUSIVE", reason, {"calls": calls})
    slope, slope_error = _slope(seen.calls)
    mean, deviation = _row_seconds(seen.calls)
    stop, wide = (
        math.sqrt(2 * math.log(1 / share) + math.log(calls + 1))
        for share in (errors.stop, errors.missed)
    )
    whole_high = mean + wide * deviation / math.sqrt(calls)
    load = rate / pods
    low, high = 0.0, whole_high * load
    cost = mean
    if math.isfinite(slope):
        low = max(slope - stop * slope_error, 0.0) * load
        high = min(max(slope, 0.0) + wide * slope_error, whole_high) * load
        cost = min(max(slope, 0.0), cost)
    who, whose = ("pod", "its") if pods == 1 else (f"{pods} pods", "their")
    figures = (
        f"A request takes {1000 * cost:.2f} ms. The busiest {RATE_WINDOW_MS // 1000} s had "
        f"{rounded(rate)} requests/s, which take {in_percent(cost * load)} of {whose} time."
    )
    values: dict[str, float | int | None] = {
        "share": number_of(cost * load), "low": number_of(low), "high": number_of(high),
        "row_us": number_of(1e6 * cost), "rate_per_s": number_of(rate), "pods": pods,
        "calls": calls,
    }  # fmt: skip
    rest = f"of {whose} time for all of the traffic"
    harm = Harm(
        proven=f"The challenger's {who} would need at least {in_percent(low)} {rest}",
        excluded=f"The challenger's {who} would need at most {in_percent(high)} {rest}",
        still_open=f"The challenger's {who} may need up to {in_percent(high)} {rest}",
        figures=figures,
        stop_low=low,
        pass_high=high,
        unit=lambda share: f"{in_percent(share)} {rest}",
    )
    return harm_gate(name, harm, bound, errors, values)


def _row_seconds(calls: Calls) -> tuple[float, float]:
    """Mean and standard deviation of the time of a call over its rows, over calls."""
    number = sum(n for n, _, _ in calls.values())
    mean = sum(us / rows for rows, (_, us, _) in calls.items()) / number
    square = sum(squares / rows**2 for rows, (_, _, squares) in calls.items()) / number
    return mean / 1e6, math.sqrt(max(square - mean**2, 0.0)) / 1e6


def _slope(calls: Calls) -> tuple[float, float]:
    """Seconds for one more row, by least squares from sums over the calls of each number of rows,
    with the standard error HC3 of MacKinnon and White (1985). NaN if all calls carried as many
    rows, or if one call alone decides the slope."""
    number = sum(n for n, _, _ in calls.values())
    mean_rows = sum(rows * n for rows, (n, _, _) in calls.items()) / number
    mean_us = sum(us for _, us, _ in calls.values()) / number
    centred = {rows: rows - mean_rows for rows in calls}
    spread = sum(n * centred[rows] ** 2 for rows, (n, _, _) in calls.items())
    if spread <= 0:
        return math.nan, math.nan
    leverage = {rows: 1 / number + c**2 / spread for rows, c in centred.items()}
    if max(leverage.values()) > MOST_LEVERAGE:
        return math.nan, math.nan
    slope = sum(centred[rows] * us for rows, (_, us, _) in calls.items()) / spread
    error = 0.0
    for rows, (n, us, squares) in calls.items():
        fitted = mean_us + slope * centred[rows]
        residuals = max(squares - 2 * fitted * us + n * fitted**2, 0.0)
        error += centred[rows] ** 2 * residuals / (1 - leverage[rows]) ** 2
    return slope / 1e6, math.sqrt(error) / spread / 1e6
