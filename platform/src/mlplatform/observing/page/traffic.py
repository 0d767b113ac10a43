"""A model's traffic as the page shows it: the newest numbers, each with its course over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from mlplatform.decisions.records.record import VARIANT
from mlplatform.model.definition import ModelDefinition
from mlplatform.observing.page.pictures.lines import Points, Spark, spark
from mlplatform.observing.page.pictures.scales import percents
from mlplatform.observing.page.queries.error_budget import answers_to_judge
from mlplatform.operations.actions.traffic import AGES, CHECK, ages_of, check_of
from mlplatform.operations.traffic.buckets import SHADOW, Counts, no_counts, quantile_ms
from mlplatform.operations.traffic.projection import TrafficReport
from mlplatform.rollouts.passes.summary import title
from mlplatform.runtime.times import duration_text, minute_text
from mlplatform.runtime.units import DAY_MS, HOUR_MS, HOUR_S, MINUTE_MS

PERIODS: Final[Mapping[str, tuple[int, int]]] = {
    "day": (DAY_MS, HOUR_MS // 2),
    "week": (7 * DAY_MS, 4 * HOUR_MS),
    "month": (31 * DAY_MS, 12 * HOUR_MS),
}
"""Period → its length, and the length of a point, in milliseconds of event time."""
SURE: Final = 1.96
"""Standard errors to either side of a share for 95 %."""
TABLE_ROWS: Final = 24
LEAST_RATE: Final = 2.0
"""Least number of requests in the unit of time in which a rate is written."""
MOST_MINUTES: Final = 100
"""Minutes from which a length is written in hours."""
QUIET_MS: Final = 5 * MINUTE_MS
EXPECTED: Final = 20.0
"""Requests that must have been expected before traffic counts as stopped: at a steady rate, none of
20 comes by chance in two of a billion cases."""
LATE_MS: Final = 5 * MINUTE_MS
"""Age of the counts from which the page says that they are late; a pass counts every minute."""
OLD_SAMPLE_MS: Final = 2 * HOUR_MS
"""Age of a sample, before the newest request, from which the page says when it was taken."""
LATENCIES: Final[Mapping[str, str]] = {
    quantile: f"{title(f'latency_{quantile}')} ({quantile})" for quantile in ("p50", "p99")
}
"""Quantile → its name, by the gate of a rollout."""
CHAMPION, CHALLENGER, VARIANTS = "champion", "challenger", "variants"


@dataclass(frozen=True, slots=True)
class Metric:
    """One number and its course.

    Args:
        text: the newest value, as text.
        note: further information on the value.
        tone: good, bad, or neither.
        key: id that is unique among the model's metrics.
        spark: the sparkline; None if nothing was measured.
    """

    key: str
    name: str
    text: str
    note: str
    tone: str
    spark: Spark | None


@dataclass(frozen=True, slots=True)
class NewestRecord:
    """The age of a model's traffic.

    Args:
        at_ms: event time of the newest record that was counted.
        age: how long ago that is, in words.
        warning: a sentence if traffic has stopped, or if counting is late; otherwise empty.
    """

    at_ms: int
    age: str
    warning: str


@dataclass(frozen=True, slots=True)
class TrafficDetail:
    """A model's traffic in one period.

    Args:
        from_ms, to_ms: ends of the period, event time; it ends now, whenever the last request came.
        newest: the newest record that was counted, and what its age means.
        rows: rows of the table, newest first: the time, and each number as text.
    """

    period: str
    from_ms: int
    to_ms: int
    newest: NewestRecord
    metrics: tuple[Metric, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class _Point:
    start_ms: int
    seconds: float
    roles: Mapping[str, Counts]

    answered: Counts

    def of(self, roles: Iterable[str]) -> Counts:
        return _sum(counts for role, counts in self.roles.items() if role in roles)


def traffic_detail(
    definition: ModelDefinition, found: TrafficReport | None, period: str, now_ms: int
) -> TrafficDetail | None:
    """The period of a model's traffic that ends now; None if nothing was counted yet.

    Lines end where counting has come to: without requests they fall to zero there. For a model
    without alerts no alerts are counted. For a model whose labels are not 0 and 1 there is neither
    precision nor recall.

    Args:
        period: a key of `PERIODS`.
        now_ms: the present event time.
    """
    if found is None:
        return None
    back_ms, point_ms = PERIODS[period]
    end_ms = max(found.newest_ms, now_ms)
    span_ms = (end_ms - back_ms, end_ms)
    points = _points(found, span_ms, point_ms)
    flags = bool(definition.decision.alerts)
    metrics = (
        *_traffic(definition, points, span_ms),
        *(_outcomes(found, span_ms) if definition.task == "binary" else ()),
        _drift(found, span_ms),
        _ages(found, span_ms),
    )
    return TrafficDetail(
        period=period,
        from_ms=span_ms[0],
        to_ms=span_ms[1],
        newest=newest_record(found, end_ms),
        metrics=metrics,
        columns=("requests", *LATENCIES.values(), *(("alerts",) if flags else ()), "degraded"),
        rows=tuple(_row(point, flags=flags) for point in reversed(points[-TABLE_ROWS:])),
    )


def newest_record(found: TrafficReport, now_ms: int) -> NewestRecord:
    """The newest record with its age, and a warning if traffic has stopped or is not counted.

    Traffic counts as stopped if nothing came for `QUIET_MS` although `EXPECTED` requests or more
    were to be expected by the hour, or the bucket, before the newest one.
    """
    counted_ms = found.newest_ms if found.counted_ms is None else found.counted_ms
    quiet_ms = max(0, counted_ms - found.newest_ms)
    hour_ms = found.newest_ms - max(HOUR_MS, found.length_ms)
    own = [b for b in found.buckets if b.start_ms >= hour_ms and b.role != SHADOW]
    expected = 0.0
    if own:
        length_ms = max(found.newest_ms - own[0].start_ms, MINUTE_MS)
        expected = sum(b.counts.requests for b in own) / length_ms * quiet_ms
    age = duration_text(max(0, now_ms - found.newest_ms) / 1000)
    warning = ""
    if now_ms - max(counted_ms, found.newest_ms) > LATE_MS:
        late = duration_text((now_ms - max(counted_ms, found.newest_ms)) / 1000)
        warning = f"Nothing was counted for {late}: passes are late, and newer traffic is not shown"
    elif quiet_ms > QUIET_MS and expected >= EXPECTED:
        warning = (
            f"No request was counted in the last {age}, and about {expected:,.0f} were to be"
            " expected: traffic has stopped, or is not logged"
        )
    return NewestRecord(found.newest_ms, age, warning)


def share_interval(hits: int, trials: int) -> tuple[float, float]:
    """The bounds of a share, with 95 %.

    Source: Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    centre, spread = (hits + SURE**2 / 2) / (trials + SURE**2), SURE / (trials + SURE**2)
    wide = spread * math.sqrt(hits * (trials - hits) / trials + SURE**2 / 4)
    return max(centre - wide, 0.0), min(centre + wide, 1.0)


def _points(found: TrafficReport, span_ms: tuple[int, int], point_ms: int) -> list[_Point]:
    """Every point of the period that was counted, including points without requests."""
    reached_ms = min(max(found.newest_ms, found.counted_ms or 0), span_ms[1])
    if reached_ms <= span_ms[0]:
        return []
    held: dict[int, dict[str, Counts]] = {}
    oldest_ms = span_ms[0] - found.length_ms
    for bucket in (one for one in found.buckets if one.start_ms >= oldest_ms):
        roles = held.setdefault(bucket.start_ms - bucket.start_ms % point_ms, {})
        before = roles.get(bucket.role)
        roles[bucket.role] = bucket.counts if before is None else before.plus(bucket.counts)
    first = min([span_ms[0] - span_ms[0] % point_ms + point_ms, *held])
    last = reached_ms - reached_ms % point_ms
    points = [_point(at, point_ms / 1000, held.get(at, {})) for at in range(first, last, point_ms)]
    # The newest point is not complete: it is as long as its buckets. A short one shows little.
    end_ms = max(reached_ms, found.newest_ms - found.newest_ms % found.length_ms + found.length_ms)
    newest = _point(last, (end_ms - last) / 1000, held.get(last, {}))
    if points and newest.seconds < point_ms / 2000:
        points[-1] = _together(points[-1], newest)
        return points
    return [*points, newest]


def _point(start_ms: int, seconds: float, roles: Mapping[str, Counts]) -> _Point:
    answered = _sum(counts for role, counts in roles.items() if role != SHADOW)
    return _Point(start_ms, seconds, roles, answered)


def _together(one: _Point, other: _Point) -> _Point:
    roles = {
        role: _sum(found[role] for found in (one.roles, other.roles) if role in found)
        for role in {*one.roles, *other.roles}
    }
    return _point(one.start_ms, one.seconds + other.seconds, roles)


def _sum(found: Iterable[Counts]) -> Counts:
    total: Counts | None = None
    for counts in found:
        total = counts if total is None else total.plus(counts)
    return total or no_counts()


def _traffic(
    definition: ModelDefinition, points: Sequence[_Point], span_ms: tuple[int, int]
) -> list[Metric]:
    goal_ms, flags = float(definition.latency_slo_ms), definition.decision.alerts
    rates = [(p.start_ms, p.answered.requests / p.seconds) for p in points]
    degraded = [(p.start_ms, _share(p.answered.degraded, p.answered.requests)) for p in points]
    return [
        _rates(points, rates, span_ms),
        _latency("p50", 0.5, points, span_ms, None),
        _latency("p99", 0.99, points, span_ms, goal_ms),
        *(
            [_metric("alerts", "share of alerts", _by_arm(points, _alerts), percents, span_ms)]
            if flags
            else []
        ),
        _metric("degraded", "degraded answers", [("all", degraded)], percents, span_ms),
    ]


def _rates(points: Sequence[_Point], rates: Points, span_ms: tuple[int, int]) -> Metric:
    made = _metric("rate", "requests", [("all", rates)], rate_text, span_ms)
    if not points:
        return made
    newest = points[-1]
    count = f"{newest.answered.requests:,} requests"
    return replace(made, note=f"{count} in the last {_length(newest.seconds)} that were counted")


def _latency(
    key: str,
    quantile: float,
    points: Sequence[_Point],
    span_ms: tuple[int, int],
    goal_ms: float | None,
) -> Metric:
    lines = _by_arm(points, lambda counts: quantile_ms(counts.latency, quantile))
    made = _metric(key, LATENCIES[key], lines, _milliseconds, span_ms, goal=goal_ms)
    newest = _newest(lines[0][1])
    if goal_ms is None or newest is None:
        return made
    timed = _newest(_by_arm(points, lambda counts: float(counts.latency.sum()) or None)[0][1]) or 0
    if (least := answers_to_judge(1 - quantile)) > timed:
        some = "1 answer is" if timed == 1 else f"{timed:,.0f} answers are"
        few = f"{some} too few to judge ({least:,} wanted)"
        note = f"goal {_milliseconds(goal_ms)}: {few}"
        note = f"{note}; {made.note}" if made.note else note
        return Metric(key, made.name, made.text, note, "", made.spark)
    well = newest <= goal_ms
    note = f"goal {_milliseconds(goal_ms)}: {'met' if well else 'missed'}"
    note = f"{note}; {made.note}" if made.note else note
    return Metric(key, made.name, made.text, note, "good" if well else "bad", made.spark)


def _by_arm(
    points: Sequence[_Point], value: Callable[[Counts], float | None]
) -> list[tuple[str, Points]]:
    """The champion's line, and the challenger's if there is one; in shadow that of its copies. The
    variants of an A/B/n test have one line together."""
    lines: list[tuple[str, Points]] = []
    roles = {role for point in points for role in point.roles}
    challengers, variants = roles & {CHALLENGER, SHADOW}, roles & {VARIANT}
    others = roles - challengers - variants
    lines.append((CHAMPION, [(p.start_ms, value(p.of(others))) for p in points]))
    if challengers:
        lines.append((CHALLENGER, [(p.start_ms, value(p.of(challengers))) for p in points]))
    if variants:
        lines.append((VARIANTS, [(p.start_ms, value(p.of(variants))) for p in points]))
    return lines


def _outcomes(found: TrafficReport, span_ms: tuple[int, int]) -> list[Metric]:
    """Precision and recall by matured labels, from the drift checks of the period."""
    checks = [(at, check_of(body).outcomes) for at, body in found.samples.get(CHECK, ())]
    known = [(at, one) for at, one in checks if one is not None]
    pairs = (
        ("precision", "alerts that were right", [(at, o.hits, o.alerts) for at, o in known]),
        ("recall", "positives found", [(at, o.hits, o.positives) for at, o in known]),
    )
    return [_of_labels(key, what, shares, span_ms) for key, what, shares in pairs]


def _of_labels(
    key: str, what: str, shares: Iterable[tuple[int, int, int]], span_ms: tuple[int, int]
) -> Metric:
    known = [(at, hits, trials) for at, hits, trials in shares if trials]
    if not known:
        return Metric(key, f"{key}: {what}", "not known yet", "no label has matured", "", None)
    within = [one for one in known if one[0] >= span_ms[0]]
    line = [(at, hits / trials) for at, hits, trials in within]
    band = [(at, *share_interval(hits, trials)) for at, hits, trials in within]
    _, hits, trials = known[-1]
    low, high = share_interval(hits, trials)
    note = f"{hits:,} of {trials:,}; 95 % interval {percents(low)} to {percents(high)}"
    drawn = spark([(CHAMPION, line)], percents, span_ms, band=band)
    return Metric(key, f"{key}: {what}", percents(hits / trials), note, "", drawn)


def _drift(found: TrafficReport, span_ms: tuple[int, int]) -> Metric:
    """The distance of the input that moved most, as a share of what is allowed."""
    checks = [(at, check_of(body)) for at, body in found.samples.get(CHECK, ())]
    line: list[tuple[int, float | None]] = []
    furthest = ""
    for at, check in checks:
        reached = {
            name: max(m.psi / m.psi_limit, m.distance / m.distance_limit)
            for name, m in check.inputs.items()
            if m.psi_limit > 0 and m.distance_limit > 0
        }
        furthest = max(reached, key=lambda name: reached[name]) if reached else ""
        line.append((at, reached[furthest] if furthest else None))
    if not checks:
        return Metric("drift", "drift of the inputs", "not checked yet", "", "", None)
    verdict = checks[-1][1].verdict
    newest = line[-1][1]
    note = "" if newest is None else f"{furthest} is at {percents(newest)} of its limit"
    tone = {"drifted": "bad", "steady": "good"}.get(verdict, "")
    drawn = spark([("furthest input", _within(line, span_ms))], percents, span_ms, goal=1.0)
    return Metric("drift", "drift of the inputs", verdict, note, tone, drawn)


def _ages(found: TrafficReport, span_ms: tuple[int, int]) -> Metric:
    """The age of the oldest view's features when they were used, and when that was if it is not
    the newest hour."""
    samples = [(at, ages_of(body)) for at, body in found.samples.get(AGES, ())]
    line = [(at, max(ages.values()) / HOUR_MS) for at, ages in samples if ages]
    if not line:
        note = "no pass has seen a decision that read a feature"
        return Metric("ages", "age of features", "not known", note, "", None)
    at, newest = next((at, ages) for at, ages in reversed(samples) if ages)
    note = ", ".join(f"{view} {_hours(age / HOUR_MS)}" for view, age in sorted(newest.items()))
    if found.newest_ms - at >= OLD_SAMPLE_MS:
        note += f" at {minute_text(at)} UTC; no newer decision was sampled"
    drawn = spark([("oldest view", _within(line, span_ms))], _hours, span_ms)
    return Metric("ages", "age of features", _hours(line[-1][1]), note, "", drawn)


def _within(points: Points, span_ms: tuple[int, int]) -> Points:
    return [point for point in points if point[0] >= span_ms[0]]


def _metric(
    key: str,
    name: str,
    lines: Sequence[tuple[str, Points]],
    write: Callable[[float], str],
    span_ms: tuple[int, int],
    *,
    goal: float | None = None,
) -> Metric:
    newest = [(of, _newest(points)) for of, points in lines]
    first = newest[0][1]
    text = "nothing asked" if first is None else write(first)
    note = "; ".join(f"{of} {write(v)}" for of, v in newest[1:] if v is not None)
    return Metric(key, name, text, note, "", spark(lines, write, span_ms, goal=goal))


def _row(point: _Point, *, flags: bool) -> tuple[int, tuple[str, ...]]:
    counts = point.answered
    values = (
        (counts.requests / point.seconds, rate_text),
        (quantile_ms(counts.latency, 0.5), _milliseconds),
        (quantile_ms(counts.latency, 0.99), _milliseconds),
        *(((_alerts(counts), percents),) if flags else ()),
        (_share(counts.degraded, counts.requests), percents),
    )
    return point.start_ms, tuple("\N{EN DASH}" if v is None else write(v) for v, write in values)


def _newest(points: Points) -> float | None:
    return next((v for _, v in reversed(points) if v is not None), None)


def _alerts(counts: Counts) -> float | None:
    return _share(counts.alerts, counts.requests - counts.degraded)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def rate_text(value: float) -> str:
    """Requests a second in the largest unit of which a person can think: "14 a minute"."""
    for seconds, unit in ((1, "second"), (60, "minute"), (HOUR_S, "hour"), (24 * HOUR_S, "day")):
        if value * seconds >= LEAST_RATE:
            return f"{value * seconds:,.0f} {'an' if unit == 'hour' else 'a'} {unit}"
    return "none" if value == 0 else "less than 2 a day"


def _length(seconds: float) -> str:
    """A length in whole minutes or hours."""
    minutes = max(1, round(seconds / 60))
    if minutes < MOST_MINUTES:
        return "minute" if minutes == 1 else f"{minutes} minutes"
    return f"{round(minutes / 60)} hours"


def _milliseconds(value: float) -> str:
    return f"{value:.1f} ms" if value < 100 else f"{value:,.0f} ms"


def _hours(value: float) -> str:
    return duration_text(value * HOUR_S)
