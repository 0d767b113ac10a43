"""Each form of a time and of a duration; a time beyond the calendar is shown as its number."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlplatform.runtime import times

AT_MS = 1_777_947_239_250
WHOLE_MS = 1_777_947_239_000


@pytest.mark.parametrize(
    ("expected", "text", "ms"),
    [
        ("2026-05-05", times.day_text, AT_MS),
        ("2026-05-05 02:13", times.minute_text, AT_MS),
        ("2026-05-05 02:13 UTC", times.utc_minute_text, AT_MS),
        ("2026-05-05 02:13:59", times.second_text, AT_MS),
        ("2026-05-05T02:13:59.250000+00:00", times.iso_text, AT_MS),
        ("2026-05-05T02:13:59+00:00", times.iso_text, WHOLE_MS),
        ("2026-05-05T02:13:59+00:00", times.iso_second_text, AT_MS),
        ("2026-05-05T02:13:59.250+00:00", times.iso_millisecond_text, AT_MS),
        ("2026-05-05T02:13:59.000Z", times.rfc3339_text, WHOLE_MS),
    ],
)
def test_each_form_of_a_time(expected: str, text: Callable[[int], str], ms: int) -> None:
    assert text(ms) == expected


@pytest.mark.parametrize("ms", [10**15, 10**30, -(10**15)])
def test_a_time_beyond_the_calendar_is_its_number(ms: int) -> None:
    assert times.text_of_any(ms, times.second_text) == f"{ms} ms"


@pytest.mark.parametrize(
    ("expected", "seconds"),
    [
        ("0 s", 0.0), ("0.2 s", 0.2), ("59 s", 59), ("1 min", 60), ("31.5 min", 1_890),
        ("1 h", 3_600), ("35.6 h", 128_160), ("47.9 h", 172_440), ("2 days", 172_800),
        ("2.5 days", 216_000), ("7 days", 604_800), ("1,000 days", 86_400_000),
    ],
)  # fmt: skip
def test_a_duration_is_in_hours_below_two_days_and_in_days_from_there_on(
    expected: str, seconds: float
) -> None:
    assert times.duration_text(seconds) == expected


def test_any_other_time_is_its_text() -> None:
    assert times.text_of_any(AT_MS, times.minute_text) == "2026-05-05 02:13"
