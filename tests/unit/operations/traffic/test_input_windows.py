"""What drift checks keep of their windows: bounded, true to the windows, and read without a log."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlplatform.model.rhythm import rhythm, weekday
from mlplatform.operations.traffic import input_windows
from mlplatform.operations.traffic.input_windows import InputHistory, input_window, together
from mlplatform.rollouts.drift.health import Health
from mlplatform.rollouts.drift.verdict import Window, WindowVerdict
from mlplatform.runtime.errors import Corrupt
from mlplatform.runtime.units import DAY_MS
from support.kept_windows import MOVED, STILL, WORD, history, trained_profile


def window_of(values: np.ndarray, *, day: int = 20_000) -> Window:
    count = len(values)
    return Window(
        start_ms=day * DAY_MS,
        end_ms=(day + 1) * DAY_MS,
        inputs={MOVED: values},
        units=np.arange(count),
        scores=np.full(count, 0.5),
        alerts=np.zeros(count, dtype=bool),
        scored_units=np.arange(count),
    )


def judged(window: Window) -> WindowVerdict:
    return WindowVerdict(window.start_ms, window.end_ms, 7, Health.INCONCLUSIVE, ("few",))


def test_a_window_keeps_where_its_values_lay_beside_the_profile() -> None:
    kept = history(3).windows[-1]
    moved = kept.inputs[MOVED]
    assert moved.seen.middle == pytest.approx(140, abs=2)
    assert moved.seen.missing_share == pytest.approx(0.1)
    assert moved.expected.middle == pytest.approx(100, abs=2)
    assert moved.expected.low == pytest.approx(100 - 12.8, abs=2)
    assert moved.reached == pytest.approx(10.0)
    assert kept.inputs[STILL].reached == pytest.approx(0.1)
    assert kept.inputs[WORD].seen.middle is None, "places of words have no order"
    assert kept.stale_share == pytest.approx(50 / 2050)


def test_what_nothing_was_measured_of_has_its_missing_share_alone() -> None:
    values = np.full(40, np.nan)
    values[:10] = 3.0
    window = window_of(values)
    found = input_window(1, trained_profile(), {}, window, judged(window)).inputs[MOVED]
    assert found.seen.missing_share == pytest.approx(0.75)
    assert found.seen.middle is None, "ten values would be single people's"
    assert found.reached is None


def test_the_weekday_is_what_a_window_is_compared_with() -> None:
    trained = trained_profile()
    days = np.repeat(np.arange(20_000, 20_028), 100)
    values = np.where([weekday(d) == 6 for d in days], 50.0, 100.0) + np.tile(np.arange(100), 28)
    learned = rhythm(trained.inputs[MOVED], values, days)
    assert learned is not None
    sunday = next(d for d in range(20_000, 20_007) if weekday(d) == 6)
    expected = {}
    for day in (sunday, sunday + 1):
        window = window_of(np.full(40, 1.0), day=day)
        kept = input_window(1, trained, {MOVED: learned}, window, judged(window))
        expected[day] = kept.inputs[MOVED].expected.middle
    assert expected[sunday] == pytest.approx(99.5, abs=2)
    assert expected[sunday + 1] == pytest.approx(149.5, abs=2)


def test_a_window_judged_again_takes_the_place_of_the_earlier_one_and_old_ones_go() -> None:
    many = history(input_windows.KEPT)
    newest = history(3, first_day=20_000 + input_windows.KEPT - 1)
    after = together(many, newest.windows)
    starts = [w.start_ms // DAY_MS for w in after.windows]
    assert starts == list(range(20_002, 20_002 + input_windows.KEPT))
    assert after.windows[-3] == newest.windows[0]


def test_what_is_kept_is_what_is_read_and_damage_is_said(tmp_path: Path) -> None:
    assert input_windows.read(tmp_path, "fraud") == InputHistory()
    found = history(2)
    input_windows.keep(tmp_path, "fraud", found)
    assert input_windows.read(tmp_path, "fraud") == found
    (file,) = tmp_path.iterdir()
    file.write_text('{"windows": 1}')
    with pytest.raises(Corrupt, match=r"fraud\.inputs\.json"):
        input_windows.read(tmp_path, "fraud")


def test_a_window_without_decisions_has_no_stale_share() -> None:
    window = window_of(np.array([]))
    kept = input_window(1, trained_profile(), {}, window, replace(judged(window), rows=0))
    assert kept.stale_share is None
