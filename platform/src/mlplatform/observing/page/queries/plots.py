"""Positions of the lines of an interval plot: pure geometry, drawn by a template as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

WIDTH, HEIGHT, MARGIN = 320.0, 34.0, 8.0
PERCENT, POINTS = "%", "points"
"""Units of a share, and of a difference of two shares."""
CHARACTER = 5.0
"""Width of a character of a label, in units of the view box; a little more than the usual one."""
FREE_SHARE = 0.08
"""Share of the values' range that is left free on either side."""


@dataclass(frozen=True, slots=True)
class PlottedInterval:
    """A measured value with its limits, all in one unit.

    Args:
        low, high: ends of the interval around the value; None if there is none.
        allowed: ends of the allowed range; None is an open end.
        limit: a limit of which the allowed side is not known; None if there is none.
        judged_by_low: whether the low end alone is judged, and not the value.
    """

    value: float | None
    low: float | None
    high: float | None
    allowed: tuple[float | None, float | None] = (None, None)
    limit: float | None = None
    judged_by_low: bool = False


@dataclass(frozen=True, slots=True)
class Label:
    """A number below the axis.

    Args:
        at: x of the point that it names.
        anchor: end of the text that stands there, so that all of it lies in the plot.
    """

    at: float
    anchor: Literal["start", "middle", "end"]
    text: str

    @property
    def span(self) -> tuple[float, float]:
        size = CHARACTER * len(self.text)
        first = self.at - {"start": 0.0, "middle": size / 2, "end": size}[self.anchor]
        return first, first + size


@dataclass(frozen=True, slots=True)
class Plot:
    """An interval plot in the units of its view box, `WIDTH` by `HEIGHT`.

    Args:
        value, low, high: x of the value, and of both ends of its interval.
        judged: x of the dot, which marks what the limit judges; None if nothing is.
        well: x and width of the allowed range; None if it is not known.
        edges: x of each limit.
        description: the plot in words, for readers who do not see it.
        labels: numbers of the limits, and of the axis' ends where there is room.
    """

    value: float | None
    low: float | None
    high: float | None
    well: tuple[float, float] | None
    edges: tuple[float, ...]
    description: str
    labels: tuple[Label, ...]
    judged: float | None = None
    width: float = WIDTH
    height: float = HEIGHT


def plot(
    shown: PlottedInterval, *, share: bool, from_zero: bool = False, unit: str = PERCENT
) -> Plot | None:
    """The plot of an interval; None if there is nothing to draw, or no limit to compare with.

    Args:
        share: whether the values are shares (0-1), which are written in percent.
        from_zero: whether the axis begins at zero, as for shares.
        unit: unit of shares, as the sentence beside the plot has it.
    """
    value, low, high = (_finite(v) for v in (shown.value, shown.low, shown.high))
    least, most = (_finite(v) for v in shown.allowed)
    edges = [v for v in (least, most, _finite(shown.limit)) if v is not None]
    measured = [v for v in (value, low, high) if v is not None]
    if not edges or not measured:
        return None
    from_zero = from_zero or share
    numbers = [*measured, *edges, *([0.0] if from_zero else [])]
    # For nearly equal numbers the room depends on their size, so that it is not rounded away.
    size = max(abs(v) for v in numbers)
    room = max((max(numbers) - min(numbers)) * FREE_SHARE, size * 1e-6) or 1.0
    first, last = min(numbers) - (0.0 if from_zero else room), max(numbers) + room

    def written(v: float) -> str:
        return f"{100 * v:.2f} {unit}" if share else f"{v:.3g}"

    def x(v: float) -> float:
        place = (min(max(v, first), last) - first) / (last - first)
        return round(MARGIN + place * (WIDTH - 2 * MARGIN), 1)

    judged = low if shown.judged_by_low else value
    from_x, to_x = x(first if least is None else least), x(last if most is None else most)
    return Plot(
        value=None if value is None else x(value),
        low=None if low is None else x(low),
        high=None if high is None else x(high),
        well=(from_x, round(to_x - from_x, 1)) if (least, most) != (None, None) else None,
        edges=tuple(x(v) for v in edges),
        description="; ".join(
            [
                *_measured(value, low, high, written),
                *_judged_text(judged if shown.judged_by_low else None, written),
                _limit_text(least, most, edges, written),
            ]
        ),
        labels=_labels([(x(v), written(v)) for v in (*edges, first, last)]),
        judged=None if judged is None else x(judged),
    )


def _labels(wanted: list[tuple[float, str]]) -> tuple[Label, ...]:
    """The labels that can be read side by side; of two that can't, the first stays."""
    kept: list[Label] = []
    for at, text in wanted:
        half = CHARACTER * len(text) / 2
        label = Label(at, "start" if at < half else "end" if at > WIDTH - half else "middle", text)
        first, last = label.span
        if all(last < other.span[0] or first > other.span[1] for other in kept):
            kept.append(label)
    return tuple(kept)


def _measured(
    value: float | None, low: float | None, high: float | None, written: Callable[[float], str]
) -> list[str]:
    parts = [] if value is None else [written(value)]
    if low is not None and high is not None:
        parts.append(f"interval {written(low)} to {written(high)}")
    return parts


def _judged_text(low: float | None, written: Callable[[float], str]) -> list[str]:
    return [] if low is None else [f"judged is the lower end, the dot, at {written(low)}"]


def _limit_text(
    least: float | None,
    most: float | None,
    edges: list[float],
    written: Callable[[float], str],
) -> str:
    if least is not None and most is not None:
        return f"allowed {written(least)} to {written(most)}"
    if most is not None:
        return f"at most {written(most)} allowed"
    if least is not None:
        return f"at least {written(least)} wanted"
    return f"limit {written(edges[0])}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
