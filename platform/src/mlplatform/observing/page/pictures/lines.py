"""Sparklines: values over time, a goal, and gaps where nothing was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlplatform.observing.page.pictures import scales
from mlplatform.observing.page.pictures.scales import Write

WIDTH, HEIGHT = 240.0, 54.0
LEFT, RIGHT, TOP, BOTTOM = 4.0, 236.0, 6.0, 48.0

Points = Sequence[tuple[int, float | None]]
"""Event time in milliseconds and value of each point; None for no value."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a sparkline: the stretches between its gaps, and its newest point."""

    name: str
    stretches: tuple[str, ...]
    last: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Spark:
    """A sparkline in units of the view box, `WIDTH` by `HEIGHT`.

    Args:
        band: points of the area within which values lie; empty if no interval is known.
        goal: y of the goal; None if there is none.
        description: the picture in words.
        once_ms: the time of the only measurement, which makes no course; None if there are more.
    """

    lines: tuple[Line, ...]
    band: str
    goal: float | None
    description: str
    once_ms: int | None = None
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = RIGHT


def spark(
    lines: Sequence[tuple[str, Points]],
    write: Write,
    span_ms: tuple[int, int],
    *,
    goal: float | None = None,
    band: Sequence[tuple[int, float, float]] = (),
    from_zero: bool = True,
) -> Spark | None:
    """The sparkline of some lines; None if nothing was measured.

    Args:
        lines: name and points of each line.
        span_ms: first and last time that is drawn, epoch milliseconds.
        goal: value of the goal; None if there is none.
        band: time, low end and high end of each interval.
        from_zero: whether the picture begins at zero; otherwise at the lowest value.
    """
    values = [v for _, points in lines for _, v in points if v is not None]
    if not values:
        return None
    ends = [*values, *(high for _, _, high in band), *([] if goal is None else [goal])]
    lowest = [0.0] if from_zero else [low for _, low, _ in band]
    y = scales.scale([*lowest, *ends], BOTTOM, TOP)
    x = scales.Scale(span_ms[0], max(span_ms[1], span_ms[0] + 1), LEFT, RIGHT)
    upper = [(x(ms), y(high)) for ms, _, high in band]
    lower = [(x(ms), y(low)) for ms, low, _ in band]
    times = {ms for _, points in lines for ms, value in points if value is not None}
    return Spark(
        lines=tuple(_line(name, points, x, y) for name, points in lines),
        band=scales.path([*upper, *reversed(lower)]) if len(band) > 1 else "",
        goal=None if goal is None else y(goal),
        description="; ".join(_description(name, points, write) for name, points in lines)
        + ("" if goal is None else f"; the goal is {write(goal)}"),
        once_ms=min(times) if len(times) == 1 else None,
    )


def _line(name: str, points: Points, x: scales.Scale, y: scales.Scale) -> Line:
    stretches: list[list[tuple[float, float]]] = [[]]
    for ms, value in points:
        if value is None:
            stretches.append([])
        else:
            stretches[-1].append((x(ms), y(value)))
    held = [s for s in stretches if s]
    drawn = tuple(scales.path(s if len(s) > 1 else [s[0], s[0]]) for s in held)
    return Line(name, drawn, held[-1][-1] if held else None)


def _description(name: str, points: Points, write: Write) -> str:
    values = [v for _, v in points if v is not None]
    if not values:
        return f"{name}: not measured"
    low, high = write(min(values)), write(max(values))
    return f"{name}: the last value is {write(values[-1])}, the lowest {low}, the highest {high}"
