"""The picture of a gate: its interval against its tolerance, over the analyses of a step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mlplatform.observing.page.pictures import measures, scales
from mlplatform.observing.page.pictures.measures import Arms, GateReading, Measure
from mlplatform.observing.page.pictures.scales import Scale, Tick
from mlplatform.operations.actions.interim_analyses import InterimAnalysis
from mlplatform.rollouts.passes.summary import MARKS, is_unchecked, mark, title
from mlplatform.rollouts.verdicts.verdict import Gate

WIDTH, HEIGHT = 360.0, 150.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 350.0, 8.0, 126.0
MOST_RANGE: Final = 4.0
"""Multiple of the limits at which an interval is cut off: an early wide one would hide all
others."""
LINE_APART: Final = 12.0
MOST_ROWS: Final = 12
SHAPES: Final = {"HEALTHY": "dot", "UNHEALTHY": "cross", "INCONCLUSIVE": "ring"}
TONES: Final = {"HEALTHY": "good", "UNHEALTHY": "bad"}


@dataclass(frozen=True, slots=True)
class Bar:
    """The number of one arm.

    Args:
        width: width of the bar, 0 to 100.
    """

    name: str
    width: float
    text: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """A drawing in units of the view box, `WIDTH` by `HEIGHT`.

    Args:
        well: y and height of the allowed range; None if there is no such range.
        stops: y of each limit beyond which the challenger is stopped.
        band, line: points of the intervals, and of the values, over time; empty for a
            single analysis.
        last: x and y of the newest value, and y of both ends of its interval.
        shape: shape of the newest value by its verdict: dot, cross or ring.
        cut: ends of the newest interval that lie beyond the picture: "above", "below".
        outside: sentences on what lies beyond the picture.
        ticks: texts beside the picture.
        zero: y of the value that means no harm; None if it is outside of the picture.
    """

    well: tuple[float, float] | None
    stops: tuple[float, ...]
    band: str
    line: str
    last: tuple[float, float, float, float]
    shape: str
    cut: tuple[str, ...]
    outside: tuple[str, ...]
    ticks: tuple[Tick, ...]
    zero: float | None
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = RIGHT
    bottom: float = BOTTOM


@dataclass(frozen=True, slots=True)
class GatePicture:
    """One gate of a step.

    Args:
        name: id that is unique on the page, for titles of the picture.
        sentence: the result in plain words.
        reason: the result with its statistics.
        description: the picture in words.
        rows: the newest analyses: event time, value, interval and verdict.
        analyses: number of analyses.
    """

    name: str
    title: str
    mark: str
    tone: str
    sentence: str
    reason: str
    axis: str
    drawing: Drawing | None
    description: str
    arms: str
    bars: tuple[Bar, ...]
    rows: tuple[tuple[int, str, str, str], ...]
    analyses: int
    from_ms: int
    to_ms: int


def gate_pictures(
    name: str, analyses: Sequence[InterimAnalysis], begun_ms: int | None
) -> list[GatePicture]:
    """A picture of each gate of the newest analysis, with those that stop the challenger first.

    Args:
        name: name of the step, unique on the page.
        analyses: analyses of one step, oldest first; at least one.
        begun_ms: event time at which the step began; None if it is not known.
    """
    order = {"UNHEALTHY": 0, "INCONCLUSIVE": 1}
    newest = sorted(analyses[-1].gates, key=lambda g: (order.get(g.verdict, 2), g.name))
    return [_picture(name, gate, analyses, begun_ms) for gate in newest]


def _picture(
    step: str, gate: Gate, analyses: Sequence[InterimAnalysis], begun_ms: int | None
) -> GatePicture:
    found = [(at.event_ms, g) for at in analyses for g in at.gates if g.name == gate.name]
    measure = measures.measure(gate.name, gate.values)
    seen: list[tuple[int, Gate, GateReading]] = []
    if measure is not None:
        alike = [(ms, g) for ms, g in found if measures.measure(g.name, g.values) is measure]
        seen = [(ms, g, measure.measured(g.values)) for ms, g in alike]
        seen = [(ms, g, m) for ms, g, m in seen if m.value is not None]
    shown = bool(seen) and seen[-1][1] is gate
    first = min([found[0][0], *([] if begun_ms is None else [begun_ms])])
    drawn = description = None
    arms = None if measure is None else measure.arms(gate.values)
    if measure is not None and shown:
        drawn = _drawing(measure, seen, gate, (first, found[-1][0]))
        description = _description(measure, seen, gate)
    return GatePicture(
        name=f"{step}-{gate.name}".replace(" ", "-"),
        title=title(gate.name),
        mark=mark(gate.verdict, holds=gate.holds, reason=gate.reason),
        tone="" if is_unchecked(gate.reason) else TONES.get(gate.verdict, ""),
        sentence=gate.headline,
        reason=gate.reason,
        axis="" if measure is None else measure.axis,
        drawing=drawn,
        description=description or "",
        arms="" if arms is None else arms.what,
        bars=() if arms is None else _bars(arms),
        rows=() if measure is None else _rows(measure, seen),
        analyses=len(seen),
        from_ms=first,
        to_ms=found[-1][0],
    )


def _drawing(
    measure: Measure,
    seen: Sequence[tuple[int, Gate, GateReading]],
    gate: Gate,
    span_ms: tuple[int, int],
) -> Drawing:
    allowed, stops = measure.allowed(gate.values), measure.stops(gate.values)
    ends = [e for e in (allowed or ()) if e is not None]
    newest = seen[-1][2]
    assert newest.value is not None
    y = _height([*ends, *stops], [m for _, _, m in seen])
    x = scales.scale([float(span_ms[0]), float(span_ms[1])], LEFT + 6, RIGHT - 6)
    if span_ms[0] == span_ms[1]:
        x = Scale(span_ms[0] - 1.0, span_ms[1] + 1.0, LEFT, RIGHT)
    low = -math.inf if newest.low is None else newest.low
    high = math.inf if newest.high is None else newest.high
    beyond = {"above": high > y.last, "below": low < y.first}
    held = [(ms, m) for ms, _, m in seen if m.value is not None]
    many = len(held) > 1
    upper = [(x(ms), y(y.last if m.high is None else m.high)) for ms, m in held]
    lower = [(x(ms), y(y.first if m.low is None else m.low)) for ms, m in held]
    return Drawing(
        well=_well(allowed, y),
        stops=tuple(y(stop) for stop in stops),
        band=scales.path([*upper, *reversed(lower)]) if many else "",
        line=scales.path([(x(ms), y(m.value or 0.0)) for ms, m in held]) if many else "",
        last=(x(seen[-1][0]), y(newest.value), y(low), y(high)),
        shape=SHAPES.get(gate.verdict, "ring"),
        cut=tuple(side for side, is_beyond in beyond.items() if is_beyond),
        outside=tuple(_outside(measure, [m for _, m in held], y)),
        ticks=_ticks(measure, ends, stops, y),
        zero=y(0.0) if y.first < 0 < y.last else None,
    )


def _outside(measure: Measure, held: Sequence[GateReading], y: Scale) -> Iterator[str]:
    """Sentences about what the picture can't show at its place, with the numbers."""
    newest = held[-1]
    assert newest.value is not None
    if not (_lies_in(newest, y) and y.first <= newest.value <= y.last):
        ends = f"{measure.write(y.first)} to {measure.write(y.last)}"
        yield (
            f"The newest value is {_value(measure, newest)}. Its interval lies between"
            f" {_between(measure, newest)}, and the picture shows {ends}."
        )
    if any(not _lies_in(earlier, y) for earlier in held[:-1]):
        yield "Earlier intervals continue beyond the picture."


def _lies_in(found: GateReading, y: Scale) -> bool:
    ends = (found.low, found.high)
    return all(end is not None and y.first <= end <= y.last for end in ends)


def _height(limits: Sequence[float], seen: Sequence[GateReading]) -> Scale:
    """The scale that shows the limits and the newest interval, unless the limits would touch."""
    newest = seen[-1]
    size = max([abs(v) for v in limits if v] or [abs(newest.value or 0.0) * 2, 1e-3])
    most = MOST_RANGE * size
    shown = [v for m in seen for v in (m.low, m.value, m.high) if v is not None]
    return scales.scale([0.0, *limits, *(min(max(v, -most), most) for v in shown)],
                        BOTTOM, TOP, room=0.08)  # fmt: skip


def _well(
    allowed: tuple[float | None, float | None] | None, y: Scale
) -> tuple[float, float] | None:
    if allowed is None:
        return None
    bottom = y(y.first if allowed[0] is None else allowed[0])
    top = y(y.last if allowed[1] is None else allowed[1])
    return top, round(max(0.0, bottom - top), 1)  # a limit below the drawn range allows nothing


def _ticks(
    measure: Measure, allowed: Sequence[float], stops: Sequence[float], y: Scale
) -> tuple[Tick, ...]:
    """The limits and zero, and the range's ends if fewer than two of those can be shown."""
    wanted = [*allowed[::-1], *stops[::-1], 0.0]
    inside = [v for v in wanted if y.first <= v <= y.last]
    ticks = scales.spread([Tick(y(v), measure.write(v)) for v in inside], LINE_APART)
    if len(ticks) > 1:
        return ticks
    ends = (Tick(y(v), measure.write(v)) for v in (y.first, y.last))
    return scales.spread([*ticks, *ends], LINE_APART)


def _description(
    measure: Measure, seen: Sequence[tuple[int, Gate, GateReading]], gate: Gate
) -> str:
    newest = seen[-1][2]
    parts = [f"{measure.axis}: {_value(measure, newest)}, between {_between(measure, newest)}"]
    allowed = measure.allowed(gate.values)
    if allowed is not None:
        least, most = (None if v is None else measure.write(v) for v in allowed)
        parts.append(f"allowed {least} to {most}" if least else f"at most {most} allowed")
    stops = measure.stops(gate.values)
    if stops:
        parts.append(f"more than {measure.write(stops[-1])} stops the challenger")
    if len(seen) > 1:
        first = _between(measure, seen[0][2])
        parts.append(
            f"the interval of the first of {len(seen)} interim analyses was between {first}"
        )
    return "; ".join(parts)


def _rows(
    measure: Measure, seen: Sequence[tuple[int, Gate, GateReading]]
) -> tuple[tuple[int, str, str, str], ...]:
    return tuple(
        (ms, _value(measure, m), _between(measure, m), MARKS.get(g.verdict, g.verdict))
        for ms, g, m in reversed(seen[-MOST_ROWS:])
    )


def _value(measure: Measure, found: GateReading) -> str:
    return "unknown" if found.value is None else measure.write(found.value)


def _between(measure: Measure, found: GateReading) -> str:
    low, high = (None if v is None else measure.write(v) for v in (found.low, found.high))
    return f"{low or 'unknown'} and {high or 'unknown'}"


def _bars(arms: Arms) -> tuple[Bar, ...]:
    most = max(arms.challenger, arms.champion) or 1.0
    return tuple(
        Bar(name, round(100 * max(value, 0.0) / most, 1), arms.write(value))
        for name, value in (("challenger", arms.challenger), ("champion", arms.champion))
    )
