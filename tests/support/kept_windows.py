"""Windows that drift checks keep: days of three inputs, one of which moves and goes missing."""

from __future__ import annotations

import numpy as np

from mlplatform.model.profile import Profile, profile
from mlplatform.operations.traffic.input_windows import InputHistory, input_window, together
from mlplatform.rollouts.drift.faults import ViewReading
from mlplatform.rollouts.drift.health import Health
from mlplatform.rollouts.drift.measures import Shift
from mlplatform.rollouts.drift.verdict import Window, WindowVerdict
from mlplatform.runtime.units import DAY_MS

MOVED, STILL, WORD = "amount", "night_share", "channel"
ROWS = 2_000
HOSTILE = "<script>alert(1)</script>"


def trained_profile() -> Profile:
    """The profile of amounts around 100, shares below 1, and a category of three words."""
    random = np.random.default_rng(1)
    columns = [random.normal(100, 10, ROWS), random.random(ROWS), random.integers(2, 5, ROWS)]
    matrix = np.column_stack(columns).astype(np.float32)
    scores, alerts = random.random(ROWS), random.random(ROWS) < 0.02
    names = (MOVED, STILL, WORD)
    return profile(matrix, names, scores, alerts, np.arange(ROWS), {WORD: 3})


def history(days: int, *, first_day: int = 20_000, inputs: int = 3) -> InputHistory:
    """A history of so many days; on the last one the first input has moved, and a tenth of its
    values is missing.

    Args:
        inputs: number of inputs; further ones are like the second.
    """
    trained = trained_profile()
    kept = [_day(trained, first_day + n, moved=n == days - 1) for n in range(days)]
    windows = [input_window(1, trained, {}, window, verdict) for window, verdict in kept]
    if inputs > 3:
        more = {f"input_{n}": STILL for n in range(inputs - 3)}
        for window in windows:
            assert isinstance(window.inputs, dict)
            window.inputs.update({name: window.inputs[of] for name, of in more.items()})
    return together(InputHistory(), windows)


def _day(trained: Profile, day: int, *, moved: bool) -> tuple[Window, WindowVerdict]:
    random = np.random.default_rng(day)
    amounts = random.normal(140 if moved else 100, 10, ROWS)
    if moved:
        amounts[: ROWS // 10] = np.nan
    start_ms = day * DAY_MS
    window = Window(
        start_ms=start_ms,
        end_ms=start_ms + DAY_MS,
        inputs={
            MOVED: amounts,
            STILL: random.random(ROWS),
            WORD: random.integers(2, 5, ROWS).astype(np.float64),
        },
        units=np.arange(ROWS),
        scores=random.random(ROWS),
        alerts=np.zeros(ROWS, dtype=bool),
        scored_units=np.arange(ROWS),
        views={"customer_stats": ViewReading(start_ms, DAY_MS)},
        stale=50,
    )
    psi = {MOVED: 2.0 if moved else 0.01, STILL: 0.02, WORD: 0.03}
    far = {MOVED: 4.0 if moved else 0.05, STILL: 0.04, WORD: 0.0}
    missing = 0.1 if moved else 0.0
    shifts = tuple(
        Shift(name, ROWS, psi[name], 0.2, far[name], 0.5, missing if name == MOVED else 0.0)
        for name in psi
    )
    health = Health.UNHEALTHY if moved else Health.HEALTHY
    reasons = (f"{MOVED} moved {HOSTILE}",) if moved else ("nothing moved",)
    return window, WindowVerdict(start_ms, start_ms + DAY_MS, ROWS, health, reasons, shifts)
