"""The windows of drift checks, input by input, beside what the champion's profile expects.

One small file for each model, for the page: no view of it reads the log. Nothing is decided from
it. It may be deleted: the next drift check writes the windows that it judges again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from mlplatform.model.profile import Column, Floats, Profile, finite, levels
from mlplatform.model.rhythm import SCORE, Rhythm, Rhythms, expected_column, weekday_of
from mlplatform.rollouts.drift.verdict import Window, WindowVerdict
from mlplatform.runtime.storage.struct_files import read_struct, write_struct

KEPT: Final = 62
"""Most windows of a model that are kept: two months of days."""
LEAST_VALUES: Final = 20
"""Fewest values of which quantiles are kept: of fewer, they would be single people's."""
LOW, MIDDLE, HIGH = 0.1, 0.5, 0.9


class Spread(msgspec.Struct, frozen=True):
    """Where the values of an input lay: the quantiles at 10, 50 and 90 %, and the missing share.

    Args:
        low, middle, high: None for categories, whose places have no order, and of fewer than
            `LEAST_VALUES` values.
        missing_share: 0 to 1.
    """

    low: float | None
    middle: float | None
    high: float | None
    missing_share: float


class InputMovement(msgspec.Struct, frozen=True):
    """One input in one window.

    Args:
        seen: where its values lay, by a sample of the window's requests.
        expected: the same by the champion's profile, on this weekday if the profile tells weekdays
            apart.
        psi, distance: as the drift check measured them; None if it measured nothing.
        psi_limit, distance_limit: the largest values without drift.
        is_category: whether its values are places of a vocabulary.
    """

    seen: Spread
    expected: Spread
    psi: float | None = None
    psi_limit: float | None = None
    distance: float | None = None
    distance_limit: float | None = None
    is_category: bool = False

    @property
    def reached(self) -> float | None:
        """The share of its limit that the input reached, 1 and more for drift; None if it was not
        measured."""
        if self.psi is None or self.distance is None or not self.psi_limit:
            return None
        far = self.distance / self.distance_limit if self.distance_limit else 0.0
        return max(self.psi / self.psi_limit, far)


class InputWindow(msgspec.Struct, frozen=True):
    """One window that a drift check judged, in event time.

    Args:
        champion: version by whose profile it was judged.
        rows: number of decisions with fresh features.
        stale: number of decisions without; the inputs leave them out.
        health: HEALTHY, UNHEALTHY (drifted) or INCONCLUSIVE, with reasons.
        newest: view → event time of the newest snapshot that the decisions read; None if they found
            no row.
        inputs: input → its movement, the score among them.
    """

    start_ms: int
    end_ms: int
    champion: int
    rows: int
    stale: int
    health: str
    reasons: tuple[str, ...]
    newest: Mapping[str, int | None]
    inputs: Mapping[str, InputMovement]

    @property
    def stale_share(self) -> float | None:
        """The share (0-1) of decisions without fresh features; None without decisions."""
        total = self.rows + self.stale
        return self.stale / total if total else None


class InputHistory(msgspec.Struct, frozen=True):
    """The kept windows of a model, oldest first."""

    windows: tuple[InputWindow, ...] = ()


def input_window(
    champion: int, profile: Profile, rhythms: Rhythms, window: Window, verdict: WindowVerdict
) -> InputWindow:
    """One window as it is kept.

    Args:
        window: a sample of the window's requests is enough.
    """
    shifts = {shift.name: shift for shift in verdict.shifts}
    weekday = weekday_of(window.start_ms, window.end_ms)
    values: dict[str, Floats] = {**window.inputs, SCORE: window.scores}
    columns = {**profile.inputs, SCORE: profile.score}
    inputs = {}
    for name in (name for name in values if name in columns):
        shift, expected = shifts.get(name), _expected(columns[name], rhythms.get(name), weekday)
        seen = _spread_of_values(values[name], is_category=expected.is_category)
        if shift is not None:  # counted in all requests
            seen = msgspec.structs.replace(seen, missing_share=shift.missing_share)
        inputs[name] = InputMovement(
            seen=seen,
            expected=_spread_of_column(expected),
            psi=None if shift is None else shift.psi,
            psi_limit=None if shift is None else shift.psi_limit,
            distance=None if shift is None else shift.distance,
            distance_limit=None if shift is None else shift.distance_limit,
            is_category=expected.is_category,
        )
    return InputWindow(
        start_ms=window.start_ms,
        end_ms=window.end_ms,
        champion=champion,
        rows=verdict.rows,
        stale=window.stale,
        health=str(verdict.health),
        reasons=verdict.reasons,
        newest={name: reading.newest_ms for name, reading in window.views.items()},
        inputs=inputs,
    )


def together(history: InputHistory, newest: Sequence[InputWindow]) -> InputHistory:
    """The history with these windows, each in place of an earlier one of its time; the oldest ones
    beyond `KEPT` are left out."""
    by_time = {w.start_ms: w for w in (*history.windows, *newest)}
    return InputHistory(tuple(by_time[at] for at in sorted(by_time))[-KEPT:])


def keep(folder: Path, model: str, history: InputHistory) -> None:
    """Write the model's history over the stored one."""
    write_struct(_file(folder, model), history)


def read(folder: Path, model: str) -> InputHistory:
    """The model's stored history; empty if no drift check has kept one.

    Raises:
        Corrupt: the file is not what `keep` writes.
    """
    return read_struct(_file(folder, model), InputHistory) or InputHistory()


def _expected(column: Column, rhythm: Rhythm | None, weekday: int | None) -> Column:
    if rhythm is None or not rhythm.weekdays or weekday is None:
        return column
    return expected_column(column, rhythm.weekdays[weekday])


def _spread_of_values(values: Floats, *, is_category: bool) -> Spread:
    present = finite(values)
    missing = 1 - len(present) / len(values) if len(values) else 0.0
    if is_category or len(present) < LEAST_VALUES:
        return Spread(None, None, None, missing)
    low, middle, high = np.quantile(present, (LOW, MIDDLE, HIGH)).tolist()
    return Spread(low, middle, high, missing)


def _spread_of_column(column: Column) -> Spread:
    if column.is_category:
        return Spread(None, None, None, column.missing_share)
    at = levels(len(column.quantiles))
    low, middle, high = np.interp((LOW, MIDDLE, HIGH), at, column.quantiles).tolist()
    return Spread(low, middle, high, column.missing_share)


def _file(folder: Path, model: str) -> Path:
    return folder / f"{model}.inputs.json"
