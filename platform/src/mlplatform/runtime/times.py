"""Times as texts: epoch times in milliseconds in UTC, each form under its name, and durations."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from mlplatform.runtime.units import DAY_S, HOUR_S, MINUTE_S

_UNITS: Final = (
    (2 * DAY_S, DAY_S, "days"),
    (HOUR_S, HOUR_S, "h"),
    (MINUTE_S, MINUTE_S, "min"),
    (-math.inf, 1, "s"),
)
"""Least duration in seconds for which a unit is taken, its length in seconds, and its name."""


def day_text(ms: int) -> str:
    """The day: "2026-05-05"."""
    return _utc(ms).date().isoformat()


def minute_text(ms: int) -> str:
    """The minute, where a heading says that it is UTC: "2026-05-05 02:13"."""
    return _utc(ms).strftime("%Y-%m-%d %H:%M")


def utc_minute_text(ms: int) -> str:
    """The minute in a sentence: "2026-05-05 02:13 UTC"."""
    return f"{minute_text(ms)} UTC"


def second_text(ms: int) -> str:
    """The second, where a heading says that it is UTC: "2026-05-05 02:13:59"."""
    return _utc(ms).strftime("%Y-%m-%d %H:%M:%S")


def iso_text(ms: int) -> str:
    """ISO 8601, with a fraction unless the second is whole: "2026-05-05T02:13:59+00:00"."""
    return _utc(ms).isoformat()


def iso_second_text(ms: int) -> str:
    """ISO 8601 without the fraction of the second: "2026-05-05T02:13:59+00:00"."""
    return _utc(ms).isoformat(timespec="seconds")


def iso_millisecond_text(ms: int) -> str:
    """ISO 8601 to the millisecond: "2026-05-05T02:13:59.250+00:00"."""
    return _utc(ms).isoformat(timespec="milliseconds")


def rfc3339_text(ms: int) -> str:
    """RFC 3339 to the millisecond, with its letter for UTC: "2026-05-05T02:13:59.250Z"."""
    return iso_millisecond_text(ms).replace("+00:00", "Z")


def duration_text(seconds: float) -> str:
    """A duration to a tenth of its unit: hours below two days, days from there on: "36 h", "2.5
    days"; minutes below an hour and seconds below a minute."""
    length_s, unit = next((s, u) for least_s, s, u in _UNITS if seconds >= least_s)
    number = f"{seconds / length_s:,.1f}".removesuffix(".0")
    return f"{number} {unit}"


def text_of_any(ms: int, text: Callable[[int], str]) -> str:
    """The text of a time that nobody has checked; beyond the calendar, its number and "ms"."""
    try:
        return text(ms)
    except (OverflowError, ValueError, OSError):
        return f"{ms} ms"


def _utc(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
