"""The traffic of the last days, read from the decision log piece by piece."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow.compute as pc

from mlplatform.decisions.records.draws import logged_draws
from mlplatform.decisions.records.port import DecisionLog, RecordQuery
from mlplatform.decisions.records.record import ANSWERED, ASSIGNED, VARIANT
from mlplatform.model.definition import ModelDefinition
from mlplatform.rollouts.passes.observe import waited_ms
from mlplatform.rollouts.verdicts.facts import (
    COLUMNS,
    Integers,
    columns_of,
    excused_flags,
    failed_flags,
    scored_flags,
)
from mlplatform.rollouts.verdicts.traffic_profile import (
    HiddenRequests,
    ProfileBuilder,
    Slice,
    TrafficProfile,
)
from mlplatform.runtime.units import DAY_MS, HOUR_MS

SLICE_REQUESTS = 200_000
"""The number of requests that are held in memory at a time, about."""
MOST_REQUESTS = 2_000_000
"""Most requests that are read. If there are more, only stretches of `STRETCH_H` are read. They hold
about this many requests together, and are spread evenly over the days."""
STRETCH_H: Final = 1 / 20
NEWEST_H: Final = 1 / 6
PAYLOADS: Final = 20_000
"""The number of newest requests whose exploration draws are read, because payloads are large."""
PACES: Final = 24
"""The number of stretches of the last day in which the pace of event time is measured."""
LIVE: Final = (0.8, 1.25)
"""Range of paces (hours of event time in an hour of wall time) that count as a live clock."""


def read_profile(
    log: DecisionLog, definition: ModelDefinition, *, days: float, now_event_ms: int
) -> TrafficProfile | None:
    """The traffic profile of these days; None if the log has no request of them."""
    from_ms = now_event_ms - round(days * DAY_MS)
    rate_h, speed = _newest(log, definition.name, from_ms, now_event_ms)
    if not rate_h:
        return None
    stretches = _stretches(from_ms, now_event_ms, rate_h)
    read_ms = sum(end - start for start, end in stretches)
    part = read_ms / (now_event_ms - from_ms)
    found = ProfileBuilder(days=days, part=part, speed=speed)
    within_us = 1000 * waited_ms(definition)
    for start, end in stretches:
        for piece in _pieces(start, end, rate_h):
            found.add(_slice(log, definition, piece, within_us))
    profile = found.profile()
    if profile is None or profile.hidden is None or definition.exploration is None:
        return profile
    newest_ms = max(from_ms, now_event_ms - round(PAYLOADS / rate_h * HOUR_MS))
    hidden = _explored(log, definition, profile.hidden, (newest_ms, now_event_ms))
    return dataclasses.replace(profile, hidden=hidden)


def _explored(
    log: DecisionLog, definition: ModelDefinition, hidden: HiddenRequests, newest: tuple[int, int]
) -> HiddenRequests:
    """The hidden requests with those that were let through, and the chance of that. If the slice
    has drawn nothing yet, model.yaml's declaration counts."""
    assert definition.exploration is not None
    query = RecordQuery(
        model=definition.name, kinds=("decision",), from_ms=newest[0], to_ms=newest[1],
        limit=PAYLOADS, columns=("decision_id", "decision", "payload"),
    )  # fmt: skip
    rows = log.read(query)
    draws = logged_draws(rows).values()
    declared = definition.exploration.share
    if not draws:
        return dataclasses.replace(hidden, drawn=1.0, chance=declared)
    hides = sum(name in definition.decision.hides_outcome for name in rows["decision"].to_pylist())
    through = sum(draw.explored for draw in draws)
    every = max(hides + through, len(draws))
    chances = [draw.propensity for draw in draws if draw.propensity]
    drawn = len(chances) / every
    chance = sum(chances) / len(chances) if chances else 0.0
    # the counted hidden requests are those that were not let through
    share = hidden.share / max(1 - drawn * chance, 1e-9)
    return dataclasses.replace(hidden, share=min(share, 1.0), drawn=drawn, chance=chance)


def _newest(log: DecisionLog, model: str, from_ms: int, now_ms: int) -> tuple[float, float]:
    """The present rate in requests an hour, and the pace in hours of event time in an hour of wall
    time."""
    for hours in (NEWEST_H, 24.0, (now_ms - from_ms) / HOUR_MS):
        start = max(now_ms - round(hours * HOUR_MS), from_ms)
        query = RecordQuery(
            model=model, kinds=ANSWERED, from_ms=start, to_ms=now_ms, limit=MOST_REQUESTS,
            columns=("event_ms", "recorded_ms"),
        )  # fmt: skip
        event_ms, recorded_ms = (c.to_numpy() for c in log.read(query).columns)
        if len(event_ms) < 2:
            continue
        rate_h = len(event_ms) * HOUR_MS / max(now_ms - start, 1)
        speed = _pace(event_ms, recorded_ms) or 1.0
        if not _is_live(speed):
            speed = _usual_pace(log, model, (from_ms, now_ms), rate_h) or speed
        return rate_h, 1.0 if _is_live(speed) else speed
    return 0.0, 1.0


def _usual_pace(log: DecisionLog, model: str, days: tuple[int, int], rate_h: float) -> float | None:
    """The median pace of stretches of the last day; None if too few requests show it. A median is
    used because requests that a pause of the machine held up are recorded at once after it, a
    hundred times as fast."""
    from_ms, now_ms = max(days[0], days[1] - DAY_MS), days[1]
    long_ms = round(min(now_ms - from_ms, SLICE_REQUESTS / rate_h * HOUR_MS) / PACES)
    found = []
    for start in np.linspace(from_ms, now_ms - long_ms, PACES).astype(np.int64).tolist():
        query = RecordQuery(
            model=model, kinds=ANSWERED, from_ms=start, to_ms=start + long_ms,
            columns=("event_ms", "recorded_ms"),
        )  # fmt: skip
        pace = _pace(*(c.to_numpy() for c in log.read(query).columns))
        found += [] if pace is None else [pace]
    return float(np.median(found)) if found else None


def _pace(event_ms: Integers, recorded_ms: Integers) -> float | None:
    """Hours of event time in an hour of wall time; None if these requests do not show it."""
    if len(event_ms) < 2:
        return None
    event_span, wall_span = (float(np.ptp(ms)) for ms in (event_ms, recorded_ms))
    return event_span / wall_span if wall_span and event_span else None


def _is_live(speed: float) -> bool:
    return LIVE[0] <= speed <= LIVE[1]


def _stretches(from_ms: int, to_ms: int, rate_h: float) -> list[tuple[int, int]]:
    """The stretches of these days that are read: all of them, or short ones that begin at another
    time on each day."""
    hours = (to_ms - from_ms) / HOUR_MS
    count = max(int(MOST_REQUESTS / (rate_h * STRETCH_H)), 1)
    if rate_h * hours <= MOST_REQUESTS or count * STRETCH_H >= hours:
        return [(from_ms, to_ms)]
    long_ms = round(STRETCH_H * HOUR_MS)
    ends = np.linspace(to_ms, from_ms + long_ms, count + 1)[:-1]
    return [(round(end) - long_ms, round(end)) for end in reversed(ends.tolist())]


def _pieces(from_ms: int, to_ms: int, rate_h: float) -> Iterator[tuple[int, int]]:
    step_ms = max(round(min(SLICE_REQUESTS / rate_h, 24.0) * HOUR_MS), 1000)
    for start in range(from_ms, to_ms, step_ms):
        yield start, min(start + step_ms, to_ms)


def _slice(
    log: DecisionLog, definition: ModelDefinition, piece: tuple[int, int], within_us: float
) -> Slice:
    model, (start, end) = definition.name, piece
    query = RecordQuery(model=model, kinds=ANSWERED, from_ms=start, to_ms=end, columns=COLUMNS)
    rows = log.read(query)
    rows = rows.filter(rows["unit"].is_valid())
    rows = rows.filter(pc.field("arm").isin((*ASSIGNED, VARIANT)))
    order = np.argsort(rows["event_ms"].to_numpy(), kind="stable")
    rows = rows.take(order)
    columns = columns_of(rows)
    failed, excused = failed_flags(columns), excused_flags(columns)
    latency_us = columns["latency_us"]
    counted, scored = (columns["arm"] == "champion") & ~excused, scored_flags(columns)
    hides = np.isin(columns["decision"], definition.decision.hides_outcome) & counted & scored
    return Slice(
        event_ms=columns["event_ms"],
        recorded_ms=columns["recorded_ms"],
        unit=columns["unit"],
        failed=failed | (latency_us > within_us),
        scored=scored,
        alert=np.isin(columns["decision"], definition.decision.alerts),
        latency_us=latency_us,
        hours=(end - start) / HOUR_MS,
        positives=_positives(log, model, start, end) if definition.task == "binary" else None,
        counted=counted,
        hiding=columns["score"][hides].astype(np.float64),
    )


def _positives(log: DecisionLog, model: str, from_ms: int, to_ms: int) -> int | None:
    """The number of positive labels that arrived; None if no label arrived at all."""
    query = RecordQuery(
        model=model, kinds=("label",), from_ms=from_ms, to_ms=to_ms, columns=("label",)
    )
    labels = log.read(query)["label"].drop_null().to_numpy()
    return int((labels == 1).sum()) if len(labels) else None
