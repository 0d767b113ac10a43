"""Times in which nothing moves forward, by calendars and clocks that are put forward and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.model.folders import load_definition, parse
from mlplatform.model.policies.rollout import FreezePolicy, FreezeWindow
from mlplatform.rollouts.passes.freeze import frozen_at, frozen_ms
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.runtime.units import HOUR_MS

BERLIN = ZoneInfo("Europe/Berlin")
WEEKEND = FreezePolicy(
    windows=(FreezeWindow(start="Fri 16:00", end="Mon 07:00", reason="nobody is at work"),),
    time_zone="Europe/Berlin",
)
YEAR_END = FreezePolicy(
    windows=(FreezeWindow(start="2026-12-20", end="2027-01-02", reason="the year's end"),),
    time_zone="Europe/Berlin",
)


def ms(*parts: int, zone: ZoneInfo = BERLIN) -> int:
    return round(datetime(*parts, tzinfo=zone).timestamp() * 1000)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("at", "is_frozen"),
    [
        ((2026, 12, 19, 23, 59), False),
        ((2026, 12, 20, 0, 0), True),
        ((2027, 1, 2, 23, 59), True),
        ((2027, 1, 3, 0, 0), False),
    ],
)
def test_a_date_is_the_whole_day_on_the_clocks_of_the_zone(
    at: tuple[int, ...], is_frozen: bool
) -> None:
    found = frozen_at(YEAR_END, ms(*at))
    assert (found is not None) == is_frozen
    if found is not None:
        assert (found.until_ms, found.reason) == (ms(2027, 1, 3), "the year's end")
        assert found.until == "2027-01-02 23:00 UTC"


@pytest.mark.parametrize(
    ("friday", "hours"),
    [
        pytest.param((2026, 6, 5), 63, id="an ordinary weekend"),
        pytest.param((2026, 3, 27), 62, id="clocks are put forward on Sunday"),
        pytest.param((2026, 10, 23), 64, id="clocks are put back on Sunday"),
    ],
)
def test_a_weekend_is_as_long_as_its_clocks_say(friday: tuple[int, ...], hours: int) -> None:
    start, end = ms(*friday, 16), ms(*friday, 16) + hours * HOUR_MS
    assert frozen_at(WEEKEND, start - 1) is None
    for at in (start, start + HOUR_MS, end - 1):
        found = frozen_at(WEEKEND, at)
        assert found is not None
        assert (found.from_ms, found.until_ms) == (start, end)
    assert frozen_at(WEEKEND, end) is None
    assert frozen_ms(WEEKEND, start - 12 * HOUR_MS, end + 12 * HOUR_MS) == hours * HOUR_MS


@pytest.mark.parametrize(
    ("start", "end", "hours"),
    [
        # at 02:00 it is 03:00: a clock never shows 02:30
        pytest.param("2026-03-29 01:00", "2026-03-29 02:30", 1.5, id="to a time left out"),
        pytest.param("2026-03-29 02:30", "2026-03-29 04:00", 1.5, id="from a time left out"),
        # at 03:00 it is 02:00 again: 02:30 is shown twice
        pytest.param("2026-10-25 02:30", "2026-10-25 04:00", 2.5, id="from a time shown twice"),
        pytest.param("2026-10-25 01:00", "2026-10-25 02:30", 2.5, id="to a time shown twice"),
    ],
)
def test_of_two_readings_of_a_clock_the_longer_window_holds(
    start: str, end: str, hours: float
) -> None:
    window = FreezeWindow(start=start, end=end, reason="clocks change")
    policy = FreezePolicy(windows=(window,), time_zone="Europe/Berlin")
    day = ms(*(int(part) for part in start[:10].split("-")))
    assert frozen_ms(policy, day, day + 30 * HOUR_MS) == hours * HOUR_MS


def test_windows_that_touch_are_one() -> None:
    windows = (
        FreezeWindow(start="Fri 16:00", end="Mon 07:00", reason="nobody is at work"),
        FreezeWindow(start="2026-06-08 07:00", end="2026-06-10 12:00", reason="an audit"),
    )
    policy = FreezePolicy(windows=windows, time_zone="Europe/Berlin")
    found = frozen_at(policy, ms(2026, 6, 6))
    assert found is not None
    assert found.until_ms == ms(2026, 6, 10, 12)


def test_a_week_that_never_ends_is_told_to_some_end() -> None:
    windows = (
        FreezeWindow(start="Mon 00:00", end="Thu 00:00", reason="half"),
        FreezeWindow(start="Thu 00:00", end="Mon 00:00", reason="the other half"),
    )
    found = frozen_at(FreezePolicy(windows=windows), ms(2026, 6, 6))
    assert found is not None
    assert found.until_ms > ms(2026, 9, 1)


def test_without_a_freeze_nothing_is_frozen() -> None:
    assert frozen_at(None, 0) is None
    assert frozen_ms(None, 0, 10**12) == 0


START_MS = ms(2026, 1, 1, zone=ZoneInfo("UTC"))
MOMENTS = st.integers(START_MS, START_MS + 366 * 24 * HOUR_MS)


@given(MOMENTS, MOMENTS, MOMENTS, st.sampled_from([WEEKEND, YEAR_END]))
def test_frozen_time_adds_up_and_agrees_with_its_moments(
    one: int, other: int, third: int, policy: FreezePolicy
) -> None:
    first, middle, last = sorted((one, other, third))
    whole = frozen_ms(policy, first, last)
    assert whole == frozen_ms(policy, first, middle) + frozen_ms(policy, middle, last)
    assert 0 <= whole <= last - first
    assert (frozen_at(policy, one) is not None) == (frozen_ms(policy, one, one + 1) == 1)


@given(MOMENTS)
def test_a_weekend_is_what_the_wall_shows(at_ms: int) -> None:
    """Compared with the clock of the zone itself, a minute at a time."""
    shown = datetime.fromtimestamp(at_ms / 1000, UTC).astimezone(BERLIN)
    since = timedelta(days=shown.weekday(), hours=shown.hour, minutes=shown.minute)
    expected = since >= timedelta(days=4, hours=16) or since < timedelta(hours=7)
    assert (frozen_at(WEEKEND, at_ms) is not None) == expected


BUILTINS: dict[str, Any] = msgspec.to_builtins(load_definition("fraud"))


def with_freeze(text: str) -> str:
    freeze = yaml.load(text, yaml.BaseLoader)
    rollout = BUILTINS["rollout"] | {"freeze": freeze}
    return yaml.safe_dump(BUILTINS | {"rollout": rollout})


def test_dates_are_taken_as_a_person_writes_them() -> None:
    document = yaml.safe_dump(BUILTINS | {"rollout": BUILTINS["rollout"] | {"freeze": 1}})
    freeze = "{windows: [{from: 2026-12-20, to: 2027-01-02 16:00:00, reason: year}]}"
    found = parse(document.replace("freeze: 1", f"freeze: {freeze}"), "model.yaml").rollout.freeze
    assert found is not None
    assert frozen_at(found, ms(2027, 1, 2, 15, zone=ZoneInfo("UTC"))) is not None
    assert frozen_at(found, ms(2027, 1, 2, 16, zone=ZoneInfo("UTC"))) is None


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("{time_zone: Mars/One, windows: []}", "time_zone"),
        ("{time_zone: ../etc, windows: []}", "time_zone"),
        ("{windows: [{from: soon, to: Mon 07:00, reason: r}]}", "windows.0.from"),
        ("{windows: [{from: Fri 16:00, to: Mon, reason: r}]}", "windows.0.to"),
        ("{windows: [{from: Fri 25:00, to: Mon 07:00, reason: r}]}", "windows.0.from"),
        ("{windows: [{from: Fri 16:00, to: 2026-12-20, reason: r}]}", "windows.0.to"),
        ("{windows: [{from: Fri 16:00, to: Fri 16:00, reason: r}]}", "windows.0.to"),
        ("{windows: [{from: 2026-12-20, to: 2026-12-19, reason: r}]}", "windows.0.to"),
        ("{windows: [{from: 2026-13-20, to: 2026-12-19, reason: r}]}", "windows.0.from"),
        ("{windows: [{from: Fri 16:00, to: Mon 07:00}]}", "reason"),
    ],
)
def test_a_freeze_that_can_not_be_meant_is_refused_by_its_key(text: str, key: str) -> None:
    with pytest.raises(ConfigInvalid, match=key):
        parse(with_freeze(text), "model.yaml")
