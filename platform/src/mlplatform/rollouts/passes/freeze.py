"""The freeze windows of model.yaml, in which no rollout moves forward, as instants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from mlplatform.model.freeze_times import LocalTime, Weekday, local_time
from mlplatform.model.policies.rollout import FreezePolicy, FreezeWindow
from mlplatform.runtime.times import utc_minute_text

WEEK: Final = timedelta(days=7)
MOST_JOINED: Final = 60
"""Most consecutive windows that are joined; if there are more, the period ends with the last joined
one."""


@dataclass(frozen=True, slots=True)
class FreezePeriod:
    """A period in which no rollout moves forward.

    Args:
        from_ms, until_ms: begin and end in epoch milliseconds; the end is exclusive.
    """

    from_ms: int
    until_ms: int
    reason: str

    @property
    def until(self) -> str:
        """The end of the period, in UTC."""
        return utc_minute_text(self.until_ms)


def frozen_at(policy: FreezePolicy | None, at_ms: int) -> FreezePeriod | None:
    """The freeze period that contains a moment, or None; windows that touch count as one."""
    if policy is None:
        return None
    # if another window begins where this one ends, the freeze continues: look for a free end
    until_ms, found = at_ms, None
    for _ in range(MOST_JOINED):
        found = _around(_windows(policy, at_ms, until_ms), at_ms)
        if found is None or found.until_ms == until_ms:
            break
        until_ms = found.until_ms
    return found


def frozen_ms(policy: FreezePolicy | None, from_ms: int, to_ms: int) -> int:
    """Milliseconds of freeze between two moments."""
    if policy is None or to_ms <= from_ms:
        return 0
    joined = _joined(_windows(policy, from_ms, to_ms))
    return sum(
        max(0, min(frozen.until_ms, to_ms) - max(frozen.from_ms, from_ms)) for frozen in joined
    )


def _around(windows: Iterable[FreezePeriod], at_ms: int) -> FreezePeriod | None:
    return next((f for f in _joined(windows) if f.from_ms <= at_ms < f.until_ms), None)


def _joined(windows: Iterable[FreezePeriod]) -> list[FreezePeriod]:
    """The windows merged so that none touch or overlap; each has the reason of its first window."""
    joined: list[FreezePeriod] = []
    for frozen in sorted(windows, key=lambda f: (f.from_ms, -f.until_ms)):
        last = joined[-1] if joined else None
        if last is None or frozen.from_ms > last.until_ms:
            joined.append(frozen)
        elif frozen.until_ms > last.until_ms:
            joined[-1] = FreezePeriod(last.from_ms, frozen.until_ms, last.reason)
    return joined


def _windows(policy: FreezePolicy, from_ms: int, to_ms: int) -> Iterator[FreezePeriod]:
    """All windows that touch a span of time."""
    zone = ZoneInfo(policy.time_zone)
    for window in policy.windows:
        for start, end in _local(window, zone, from_ms, to_ms):
            # A clock that is put back shows an hour twice, and a clock that is put forward skips an
            # hour. The window then has two readings; the longer one counts.
            began_ms, ended_ms = min(_readings_ms(start, zone)), max(_readings_ms(end, zone))
            if began_ms <= to_ms and from_ms <= ended_ms:
                yield FreezePeriod(began_ms, ended_ms, window.reason)


def _local(
    window: FreezeWindow, zone: ZoneInfo, from_ms: int, to_ms: int
) -> Iterator[tuple[datetime, datetime]]:
    """Beginnings and ends of the windows in local time of the zone."""
    start, end = local_time(window.start), local_time(window.end)
    if isinstance(start.day, date) and isinstance(end.day, date):
        whole_day = end.time is None
        last = end.day + timedelta(days=whole_day)
        yield _at(start.day, start), datetime.combine(last, end.time or time())
        return
    first = datetime.fromtimestamp(from_ms / 1000, zone).date() - 2 * WEEK
    until = datetime.fromtimestamp(to_ms / 1000, zone).date() + WEEK
    day = _on_or_after(first, start.day)
    while day <= until:
        began = _at(day, start)
        ended = _at(_on_or_after(day, end.day), end)
        yield began, ended if ended > began else ended + WEEK
        day += WEEK


def _at(day: date, local: LocalTime) -> datetime:
    return datetime.combine(day, local.time or time())


def _on_or_after(day: date, weekday: Weekday | date) -> date:
    assert isinstance(weekday, int)
    return day + timedelta(days=(weekday - day.weekday()) % 7)


def _readings_ms(shown: datetime, zone: ZoneInfo) -> tuple[int, int]:
    """The instants at which a clock of the zone shows this time: two around a change of the clocks,
    else one twice."""
    first, second = (shown.replace(tzinfo=zone, fold=fold).timestamp() for fold in (0, 1))
    return round(first * 1000), round(second * 1000)
