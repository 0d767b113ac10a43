"""A model's inputs over time as the page shows them, beside what the champion's profile expects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from mlplatform.model.definition import ModelDefinition
from mlplatform.model.rhythm import SCORE
from mlplatform.observing.page import incidents
from mlplatform.observing.page.pictures.gates import TONES
from mlplatform.observing.page.pictures.lines import Points, spark
from mlplatform.observing.page.pictures.scales import percents
from mlplatform.observing.page.traffic import Metric
from mlplatform.operations.traffic.input_windows import InputHistory, InputMovement, InputWindow
from mlplatform.rollouts.drift.faults import STALE_SHARE
from mlplatform.rollouts.drift.incidents import Incident
from mlplatform.runtime.times import duration_text
from mlplatform.runtime.units import HOUR_MS, HOUR_S

MOST_INPUTS: Final = 40
TABLE_ROWS: Final = 14
MOST_INCIDENTS: Final = 20
MEDIAN, LOW, HIGH = "median", "10 %", "90 %"

Movements = Sequence[tuple[int, InputMovement | None]]
"""Start of each window, and an input's movement in it; None where the window has no such input."""


@dataclass(frozen=True, slots=True)
class InputCard:
    """One input over the windows.

    Args:
        verdict: how far it moved in the newest window, in words.
        values: the values, or for a category how much of its limit it reached.
        missing: the missing share; None if no value was missing or expected to be.
        rows: the newest windows, newest first: their starts, and each number as text.
    """

    values: Metric
    missing: Metric | None
    verdict: str
    tone: str
    rows: tuple[tuple[int, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class WindowRow:
    """One window, with its verdict; `stale` is the share of its decisions, as text."""

    start_ms: int
    champion: int
    rows: int
    stale: str
    health: str
    tone: str
    reasons: tuple[str, ...]

    @property
    def summary(self) -> str:
        return incidents.summary(self.reasons)


@dataclass(frozen=True, slots=True)
class IncidentRow:
    """An incident, with what was decided on it last, and what follows."""

    incident: Incident
    cause: str
    advice: str


@dataclass(frozen=True, slots=True)
class InputsDetail:
    """A model's inputs, and its missing and stale shares.

    Args:
        from_ms, to_ms: ends of the windows, event time.
        metrics: numbers of all inputs together.
        inputs: those that reached most of their limits in the newest window first.
        hidden: number of inputs that are not shown.
        windows: newest first.
    """

    from_ms: int
    to_ms: int
    metrics: tuple[Metric, ...]
    inputs: tuple[InputCard, ...]
    hidden: int
    windows: tuple[WindowRow, ...]


def inputs_detail(history: InputHistory, score_word: str = SCORE) -> InputsDetail | None:
    """The view of the kept windows; None before a drift check has kept one.

    Args:
        score_word: name of what the model gives: score, probability or number.
    """
    windows = history.windows
    if not windows:
        return None
    span_ms = (windows[0].start_ms, windows[-1].start_ms)
    names = list(dict.fromkeys(name for w in reversed(windows) for name in w.inputs))
    newest = windows[-1].inputs
    names.sort(key=lambda name: (-(_reached(newest.get(name)) or -1.0), name))
    return InputsDetail(
        from_ms=windows[0].start_ms,
        to_ms=windows[-1].end_ms,
        metrics=(
            _stale(windows, span_ms),
            _most_missing(windows, span_ms),
            _ages(windows, span_ms),
        ),
        inputs=tuple(
            _card(f"input-{number}", name, score_word if name == SCORE else name, windows, span_ms)
            for number, name in enumerate(names[:MOST_INPUTS])
        ),
        hidden=max(len(names) - MOST_INPUTS, 0),
        windows=tuple(map(_window, reversed(windows))),
    )


def unwatched(definition: ModelDefinition) -> list[str]:
    """The inputs whose movement no drift check judges, as model.yaml has them."""
    watched = set(definition.drift.inputs)
    return [spec.name for spec in definition.inputs if spec.name not in watched]


def incident_rows(
    found: Sequence[Incident], now_ms: int, *, trains: bool, score_word: str = SCORE
) -> list[IncidentRow]:
    """The model's incidents with what was decided: those that are not closed first, then the
    newest, `MOST_INCIDENTS` at most.

    Args:
        now_ms: wall time, by which claims expire.
        trains: whether the model's folder trains it.
    """
    ordered = sorted(found, key=lambda i: (i.state == "closed", -i.found.opened_ms))
    details = [
        incidents.incident(one, now_ms, trains=trains, score_word=score_word)
        for one in ordered[:MOST_INCIDENTS]
    ]
    return [IncidentRow(one.incident, one.cause, one.advice) for one in details]


def _card(
    key: str, name: str, shown: str, windows: Sequence[InputWindow], span_ms: tuple[int, int]
) -> InputCard:
    found = [(w.start_ms, w.inputs.get(name)) for w in windows]
    verdict, tone = _verdict(found[-1][1])
    by_share = any(one is not None and one.is_category for _, one in found)
    values = (
        _of_limit(key, shown, found, span_ms) if by_share else _values(key, shown, found, span_ms)
    )
    known = [(at, one) for at, one in reversed(found[-TABLE_ROWS:]) if one is not None]
    return InputCard(
        values=values,
        missing=_missing(key, shown, found, span_ms),
        verdict=verdict,
        tone=tone,
        rows=tuple((at, _row(one)) for at, one in known),
    )


def _row(one: InputMovement) -> tuple[str, ...]:
    seen, expected = one.seen, one.expected
    values = (seen.low, seen.middle, seen.high, expected.low, expected.middle, expected.high)
    reached = one.reached
    return (
        *map(_written, values),
        percents(seen.missing_share),
        "not measured" if reached is None else percents(reached),
    )


def _values(
    key: str,
    name: str,
    found: Movements,
    span_ms: tuple[int, int],
) -> Metric:
    """The quantiles of the windows, over the band that the profile expects."""
    there = [(at, one) for at, one in found if one is not None]
    lines: list[tuple[str, Points]] = [
        (MEDIAN, _points(found, lambda one: one.seen.middle)),
        (LOW, _points(found, lambda one: one.seen.low)),
        (HIGH, _points(found, lambda one: one.seen.high)),
    ]
    band = [
        (at, one.expected.low, one.expected.high)
        for at, one in there
        if one.expected.low is not None and one.expected.high is not None
    ]
    drawn = spark(lines, _written, span_ms, band=band, from_zero=False)
    newest = there[-1][1]
    note = f"the profile expects {_range(newest.expected.low, newest.expected.high)}"
    if newest.expected.middle is not None:
        note = f"{note}, median {_written(newest.expected.middle)}"
    if newest.seen.middle is None:
        return Metric(key, name, "too few values", note, "", drawn)
    seen = f"{_written(newest.seen.low)} to {_written(newest.seen.high)}"
    text = f"median {_written(newest.seen.middle)}"
    return Metric(key, name, text, f"80 % of the values lie in {seen}; {note}", "", drawn)


def _of_limit(
    key: str,
    name: str,
    found: Movements,
    span_ms: tuple[int, int],
) -> Metric:
    """How much of its limit a category's shares reached: its places have no order."""
    line = _points(found, lambda one: one.reached)
    newest = line[-1][1]
    drawn = spark([("share of its limit", line)], percents, span_ms, goal=1.0)
    text = "not measured" if newest is None else f"{percents(newest)} of its limit"
    return Metric(key, name, text, "a category: the shares of its values (PSI)", "", drawn)


def _missing(
    key: str,
    name: str,
    found: Movements,
    span_ms: tuple[int, int],
) -> Metric | None:
    there = [(at, one) for at, one in found if one is not None]
    if not any(one.seen.missing_share or one.expected.missing_share for _, one in there):
        return None
    line = _points(found, lambda one: one.seen.missing_share)
    newest = there[-1][1]
    expected = newest.expected.missing_share
    drawn = spark([("missing", line)], percents, span_ms, goal=expected)
    text = percents(newest.seen.missing_share)
    note = f"profile: {percents(expected)}"
    return Metric(f"{key}-missing", f"{name}, missing", text, note, "", drawn)


def _verdict(newest: InputMovement | None) -> tuple[str, str]:
    reached = _reached(newest)
    if newest is None or reached is None:
        return "not judged in the newest window", ""
    measured = f"PSI {newest.psi:.2g} (limit {newest.psi_limit:.2g})"
    if not newest.is_category:
        limit = f"{newest.distance_limit:.2g}"
        measured += f", by {newest.distance:.2g} standard deviations (limit {limit})"
    return (f"moved: {measured}", "bad") if reached > 1 else (f"as the profile: {measured}", "good")


def _points(found: Movements, value: Callable[[InputMovement], float | None]) -> Points:
    return [(at, None if one is None else value(one)) for at, one in found]


def _reached(one: InputMovement | None) -> float | None:
    return None if one is None else one.reached


def _stale(windows: Sequence[InputWindow], span_ms: tuple[int, int]) -> Metric:
    line = [(w.start_ms, w.stale_share) for w in windows]
    drawn = spark([("stale", line)], percents, span_ms, goal=STALE_SHARE)
    newest = windows[-1]
    share = newest.stale_share
    text = "no decisions" if share is None else percents(share)
    note = f"{newest.stale:,} of {newest.rows + newest.stale:,} decisions; a fault is more than "
    tone = "bad" if share is not None and share > STALE_SHARE else ""
    name = "decisions without fresh features"
    return Metric("stale", name, text, note + percents(STALE_SHARE), tone, drawn)


def _most_missing(windows: Sequence[InputWindow], span_ms: tuple[int, int]) -> Metric:
    line: list[tuple[int, float | None]] = []
    most = ""
    for window in windows:
        shares = {name: one.seen.missing_share for name, one in window.inputs.items()}
        most = max(shares, key=lambda name: shares[name], default="")
        line.append((window.start_ms, shares[most] if most else None))
    drawn = spark([("the input that is missing most", line)], percents, span_ms)
    newest = line[-1][1]
    if newest is None:
        return Metric("missing", "missing values", "not known", "", "", drawn)
    note = f"{most} is missing most" if newest else "no value was missing"
    return Metric("missing", "missing values", percents(newest), note, "", drawn)


def _ages(windows: Sequence[InputWindow], span_ms: tuple[int, int]) -> Metric:
    """How old each view's newest snapshot was when a window ended."""
    name = "age of the views' snapshots"
    ages = [
        (w.start_ms, {v: w.end_ms - ms for v, ms in w.newest.items() if ms is not None})
        for w in windows
    ]
    line = [(at, max(of.values()) / HOUR_MS if of else None) for at, of in ages]
    drawn = spark([("oldest view", line)], _hours, span_ms)
    newest = ages[-1][1]
    if not newest:
        return Metric("views", name, "not known", "no decision read a feature", "", drawn)
    note = ", ".join(f"{view} {_hours(age / HOUR_MS)}" for view, age in sorted(newest.items()))
    return Metric("views", name, _hours(max(newest.values()) / HOUR_MS), note, "", drawn)


def _window(window: InputWindow) -> WindowRow:
    share = window.stale_share
    return WindowRow(
        start_ms=window.start_ms,
        champion=window.champion,
        rows=window.rows,
        stale="not known" if share is None else percents(share),
        health=incidents.HEALTH.get(window.health, window.health),
        tone=TONES.get(window.health, ""),
        reasons=window.reasons,
    )


def _range(low: float | None, high: float | None) -> str:
    return f"{_written(low)} to {_written(high)}"


def _written(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else f"{value:.4g}"


def _hours(value: float) -> str:
    return duration_text(max(value, 0.0) * HOUR_S)
