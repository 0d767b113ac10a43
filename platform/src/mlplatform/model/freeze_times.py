"""Times in the forms of a freeze window: on a day of the year, or of the week."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, time
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
WANTED: Final = "2026-12-20, 2026-12-20 16:00, or a weekday with a time: Fri 16:00"
Weekday = int
"""Number of a weekday; 0 is Monday."""

_DATE: Final = re.compile(r"(\d{4}-\d{2}-\d{2})(?:[ T](\d{2}:\d{2})(?::00)?)?")
_WEEKLY: Final = re.compile(r"([A-Za-z]{3,9}) (\d{2}:\d{2})")


@dataclass(frozen=True, slots=True)
class LocalTime:
    """A local time: a date or a weekday, with a time of day.

    Args:
        time: the time of day; None for a whole date.
    """

    day: date | Weekday
    time: time | None


def local_time(text: str) -> LocalTime:
    """The local time in a text.

    Raises:
        ValueError: the text is not a local time; `WANTED` says which forms are.
    """
    if found := _DATE.fullmatch(text):
        return LocalTime(
            date.fromisoformat(found[1]), time.fromisoformat(found[2]) if found[2] else None
        )
    if found := _WEEKLY.fullmatch(text):
        names = [n for n in WEEKDAYS if found[1].casefold() in (n, _FULL[n])]
        if names:
            return LocalTime(WEEKDAYS.index(names[0]), time.fromisoformat(found[2]))
    raise ValueError(f"{text!r} is not a time of a freeze window; wanted: {WANTED}")


def is_before(start: LocalTime, end: LocalTime) -> bool:
    """Whether a window from `start` to `end` is longer than zero. Weekday windows may run into the
    next week."""
    if not isinstance(start.day, date) or not isinstance(end.day, date):
        return start != end
    return (start.day, start.time or time.min) < (end.day, end.time or time.max)


def is_zone(name: str) -> bool:
    """Whether this machine knows a time zone of that name."""
    try:
        ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        return False
    return True


_FULL: Final = {
    "mon": "monday", "tue": "tuesday", "wed": "wednesday", "thu": "thursday", "fri": "friday",
    "sat": "saturday", "sun": "sunday",
}  # fmt: skip
