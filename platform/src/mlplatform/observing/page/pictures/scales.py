"""Positions of values in a picture, and the text of numbers in one unit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

NONE: Final = "\N{EN DASH}"
"""Stands where there is no value."""
Write = Callable[[float], str]
"""Function that writes a value in words."""


def probability(score: float | None) -> str:
    """A score (0-1) with four decimals, so that scores below each other can be compared."""
    return NONE if score is None else f"{score:.4f}"


@dataclass(frozen=True, slots=True)
class Scale:
    """A scale from values to units of the view box; values beyond its ends lie at the ends.

    Args:
        first, last: values at the two ends; first < last.
        start, end: positions of the two ends; on a vertical scale the start is at the bottom.
    """

    first: float
    last: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        held = min(max(value, self.first), self.last)
        place = (held - self.first) / (self.last - self.first)
        return round(self.start + place * (self.end - self.start), 1)


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis with its text."""

    at: float
    text: str


def scale(values: Iterable[float], start: float, end: float, *, room: float = 0.0) -> Scale:
    """A scale that includes all of these values.

    Args:
        room: free space beyond each end, as a share of the values' range.
    """
    found = [v for v in values if math.isfinite(v)] or [0.0]
    low, high = min(found), max(found)
    size = max(abs(low), abs(high), 1e-9)
    free = max((high - low) * room, 0.0)
    if high - low < 1e-6 * size:
        free = size or 1.0
    return Scale(low - free, high + free, start, end)


def spread(ticks: Sequence[Tick], apart: float) -> tuple[Tick, ...]:
    """The ticks that can be read side by side; of two that can't, the first stays."""
    kept: list[Tick] = []
    for tick in ticks:
        if all(abs(tick.at - other.at) >= apart for other in kept):
            kept.append(tick)
    return tuple(kept)


def path(points: Sequence[tuple[float, float]]) -> str:
    """A line through the points, as the attribute `points` of a polyline."""
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def finite(value: object) -> float | None:
    """The number if it can be drawn, else None."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) else None  # type: ignore[arg-type]


def percents(value: float) -> str:
    """A share (0-1) in percent with as many digits as it needs: "0.43 %"."""
    return f"{_digits(100 * value)} %"


def points(value: float) -> str:
    """A difference of shares, in percentage points."""
    text = _digits(100 * value)
    return f"{text} point" if text in ("1", "-1") else f"{text} points"


def _digits(value: float) -> str:
    if abs(value) >= 10:
        return f"{value:,.0f}"
    return f"{value:.2g}"
