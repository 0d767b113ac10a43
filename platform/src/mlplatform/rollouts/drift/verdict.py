"""Whether traffic has drifted away from what the champion learned from: pure verdicts, with
reasons."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mlplatform.model.policies.monitoring import DriftPolicy
from mlplatform.model.profile import Column, Floats, Profile
from mlplatform.model.rhythm import SCORE, Rhythm, Rhythms, expected_column, weekday_of
from mlplatform.rollouts.drift.faults import (
    Fault,
    ViewReading,
    missing_fault,
    stale_fault,
    stuck_fault,
    view_faults,
)
from mlplatform.rollouts.drift.health import Health
from mlplatform.rollouts.drift.measures import Shift, share_interval, shift, unit_numbers
from mlplatform.runtime.figures import percent, span
from mlplatform.runtime.times import minute_text

PRESENT_SHARE = 0.5  # of expected values; with fewer, the source is broken


@dataclass(frozen=True, slots=True)
class Band:
    """The band in which validation expects the share of alerts."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """The logged decisions of one model in a stretch of event time, as columns.

    Args:
        inputs: name of an input → one value for each request, NaN if it was missing.
        units: assignment unit of each request.
        scores, alerts, scored_units: one element for each request that the champion scored;
            degraded answers are left out.
        gaps: reasons why records may be missing; empty for a complete window.
        views: name of a view → what the decisions read from it.
        stale: number of decisions made without fresh features; the columns above leave them out.
    """

    start_ms: int
    end_ms: int
    inputs: Mapping[str, Floats]
    units: npt.NDArray[np.int64]
    scores: Floats
    alerts: npt.NDArray[np.bool_]
    scored_units: npt.NDArray[np.int64]
    gaps: tuple[str, ...] = ()
    views: Mapping[str, ViewReading] = field(default_factory=dict)
    stale: int = 0


@dataclass(frozen=True, slots=True)
class AlertShare:
    """The share of alerts with its interval, and the band that it should lie in."""

    rows: int
    alerts: int
    low: float
    high: float
    band: Band

    @property
    def share(self) -> float:
        return self.alerts / self.rows

    @property
    def outside(self) -> bool:
        return self.low > self.band.high or self.high < self.band.low


@dataclass(frozen=True, slots=True)
class WindowVerdict:
    """The verdict on one window; UNHEALTHY means drifted.

    Args:
        faults: faults in the window's data. If there are any, nothing is said about drift.
    """

    start_ms: int
    end_ms: int
    rows: int
    health: Health
    reasons: tuple[str, ...]
    shifts: tuple[Shift, ...] = ()
    alert_share: AlertShare | None = None
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class DriftFinding:
    """Enough windows drifted; the change began at the start of the first of them."""

    outcome: ClassVar[str] = "drifted"
    since_ms: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NoDrift:
    """Too few windows drifted, whatever the undecided windows would show."""

    outcome: ClassVar[str] = "steady"
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UnclearDrift:
    """The undecided windows could make the verdict drift: missing data is no health."""

    outcome: ClassVar[str] = "undecided"
    reasons: tuple[str, ...]


DriftVerdict = DriftFinding | NoDrift | UnclearDrift


def drift_verdict(windows: Sequence[WindowVerdict], policy: DriftPolicy) -> DriftVerdict:
    """Whether `drifted_windows` of the last `windows` windows drifted.

    Windows that do not exist yet count as undecided.
    """
    last = sorted(windows, key=lambda w: w.start_ms)[-policy.windows :]
    drifted = [w for w in last if w.health is Health.UNHEALTHY]
    healthy = [w for w in last if w.health is Health.HEALTHY]
    undecided = policy.windows - len(drifted) - len(healthy)
    count = f"{len(drifted)} of {policy.windows} windows drifted and {undecided} are undecided"
    asked = f"an incident needs {policy.drifted_windows} drifted windows"
    reasons = (f"{count}; {asked}", *_reasons(last))
    if len(drifted) >= policy.drifted_windows:
        return DriftFinding(since_ms=drifted[0].start_ms, reasons=reasons)
    if len(drifted) + undecided >= policy.drifted_windows:
        return UnclearDrift(reasons)
    return NoDrift(reasons)


def window_verdict(
    profile: Profile,
    window: Window,
    policy: DriftPolicy,
    band: Band | None,
    rhythms: Rhythms | None = None,
    *,
    score_word: str = SCORE,
) -> WindowVerdict:
    """Whether one window of decisions looks like the champion's profile.

    One drifted input, score or alert share makes it UNHEALTHY. A window that is not complete, is
    too small or has a fault in its data is INCONCLUSIVE whatever it holds: what a broken input does
    to scores, alerts and other inputs is no drift. One where something could not be measured is
    INCONCLUSIVE unless something else drifted.

    Args:
        band: expected band of the share of alerts; None if the champion raises no alerts.
        rhythms: input → rhythm, from the champion's bundle. None, or a missing input, means that
            the bundle has no rhythm for it.
        score_word: word for the champion's scores in texts for people.
    """
    requests = len(window.units) + window.stale
    if window.gaps or requests < policy.minimum_rows:
        few = f"{requests} requests; at least {policy.minimum_rows} are needed"
        return _judged(window, Health.INCONCLUSIVE, window.gaps or (few,))
    weekday = weekday_of(window.start_ms, window.end_ms)
    expected = {
        name: _expected(profile, column, (rhythms or {}).get(name), weekday)
        for name, column in {**profile.inputs, SCORE: profile.score}.items()
    }
    if faults := _faults(window, policy, expected):
        reasons = tuple(f"data fault: {fault.reason}" for fault in faults)
        return dataclasses.replace(_judged(window, Health.INCONCLUSIVE, reasons), faults=faults)
    checks, units = _DriftChecks(policy, band), unit_numbers(window.units)
    for name in policy.inputs:
        checks.check(name, expected.get(name), window.inputs.get(name), units)
    if window.scored_units is not window.units:
        units = unit_numbers(window.scored_units)
    checks.check(SCORE, expected[SCORE], window.scores, units, word=score_word)
    alerts = checks.check_alerts(window, units)
    if checks.drifted:
        return _judged(window, Health.UNHEALTHY, tuple(checks.drifted), checks.shifts, alerts)
    if checks.unknown:
        return _judged(window, Health.INCONCLUSIVE, tuple(checks.unknown), checks.shifts, alerts)
    return _judged(window, Health.HEALTHY, ("nothing moved",), checks.shifts, alerts)


@dataclass(frozen=True, slots=True)
class _ExpectedValue:
    """A number as it is expected in a window, and the number of rows behind that expectation."""

    column: Column
    rows: int
    rhythm: Rhythm | None


def _expected(
    profile: Profile, column: Column, rhythm: Rhythm | None, weekday: int | None
) -> _ExpectedValue:
    if rhythm is None or (rhythm.weekdays and weekday is None):
        return _ExpectedValue(column, profile.rows, None)
    if not rhythm.weekdays or weekday is None:
        return _ExpectedValue(column, profile.rows, rhythm)
    of_day = rhythm.weekdays[weekday]
    return _ExpectedValue(expected_column(column, of_day), of_day.rows, rhythm)


def _faults(
    window: Window, policy: DriftPolicy, expected: Mapping[str, _ExpectedValue]
) -> tuple[Fault, ...]:
    found: list[Fault | None] = [stale_fault(window.stale, len(window.units))]
    found += view_faults(window.views, window.start_ms)
    for name in policy.inputs:
        values, wanted = window.inputs.get(name), expected.get(name)
        if values is not None and wanted is not None and len(values):
            missing = missing_fault(name, wanted.column, values, policy.psi)
            found.append(missing or stuck_fault(name, wanted.column, values))
    return tuple(fault for fault in found if fault is not None)


def plain(verdict: WindowVerdict) -> dict[str, Any]:
    """The verdict as evidence: plain JSON, no NaN."""
    alerts = verdict.alert_share
    return {
        "start_ms": verdict.start_ms,
        "end_ms": verdict.end_ms,
        "rows": verdict.rows,
        "health": str(verdict.health),
        "reasons": list(verdict.reasons),
        "faults": [{"source": f.source, "told": f.reason} for f in verdict.faults],
        "shifts": {
            s.name: {
                "psi": s.psi,
                "psi_limit": s.psi_limit,
                "distance": s.distance,
                "distance_limit": s.distance_limit,
                "missing_share": s.missing_share,
                "rise": s.rise,
                "drifted": s.drifted,
            }
            for s in verdict.shifts
        },
        "alert_share": None
        if alerts is None
        else {
            "share": alerts.share,
            "low": alerts.low,
            "high": alerts.high,
            "band": [alerts.band.low, alerts.band.high],
            "outside": alerts.outside,
        },
    }


class _DriftChecks:
    """Checks one number after another and sorts the findings."""

    def __init__(self, policy: DriftPolicy, band: Band | None) -> None:
        self.shifts: list[Shift] = []
        self.drifted: list[str] = []
        self.unknown: list[str] = []
        self._policy, self._band = policy, band
        # two statistics a number, and the alert share, if there is one
        tests = 2 * (len(policy.inputs) + 1) + (band is not None)
        self._error_share = policy.false_alarm_share / tests  # Bonferroni

    def check(
        self,
        name: str,
        wanted: _ExpectedValue | None,
        values: Floats | None,
        units: npt.NDArray[np.int32],
        *,
        word: str | None = None,
    ) -> None:
        shown = name if word is None else word
        if wanted is None or values is None:
            where = "profile" if wanted is None else "window"
            self.unknown.append(f"{shown} is not in the {where}")
            return
        column = wanted.column
        enough = self._policy.minimum_rows * (1 - column.missing_share) * PRESENT_SHARE
        present = int(np.sum(np.isfinite(values)))
        if len(values) < self._policy.minimum_rows or present < enough:
            few = f"{shown} has a value in {present:,} of {len(values):,} requests"
            self.unknown.append(f"{few}, which are too few to judge")
            return
        moved = shift(
            name,
            column,
            values,
            units,
            self._policy,
            profile_rows=wanted.rows,
            error_share=self._error_share,
            rhythm=wanted.rhythm,
        )
        self.shifts.append(moved)
        if moved.drifted:
            self.drifted.append(_shift_reason(moved, shown))

    def check_alerts(self, window: Window, units: npt.NDArray[np.int32]) -> AlertShare | None:
        band = self._band
        if band is None or len(window.alerts) < self._policy.minimum_rows:
            return None  # with few rows, the score is unknown too
        low, high = share_interval(window.alerts, units, self._error_share)
        alert_share = AlertShare(len(window.alerts), int(np.sum(window.alerts)), low, high, band)
        if alert_share.outside:
            self.drifted.append(_alert_reason(alert_share))
        return alert_share


def _shift_reason(moved: Shift, name: str) -> str:
    return (
        f"{name} moved: by {moved.distance:.2f} standard deviations (at most "
        f"{moved.distance_limit:.2g} are allowed), and its distribution by a PSI of "
        f"{moved.psi:.3f} (at most {moved.psi_limit:.2g} is allowed)"
    )


def _alert_reason(alerts: AlertShare) -> str:
    return (
        f"{percent(alerts.share)} of {alerts.rows:,} requests raised an alert (interval "
        f"{span(alerts.low, alerts.high)}); {span(alerts.band.low, alerts.band.high)} were expected"
    )


def _judged(
    window: Window,
    health: Health,
    reasons: tuple[str, ...],
    shifts: Sequence[Shift] = (),
    alert_share: AlertShare | None = None,
) -> WindowVerdict:
    return WindowVerdict(
        start_ms=window.start_ms,
        end_ms=window.end_ms,
        rows=len(window.units),
        health=health,
        reasons=reasons,
        shifts=tuple(shifts),
        alert_share=alert_share,
    )


def _reasons(windows: Sequence[WindowVerdict]) -> list[str]:
    return [
        f"{minute_text(w.start_ms)}{'' if w.health is Health.UNHEALTHY else ', inconclusive'}: "
        + "; ".join(w.reasons)
        for w in windows
        if w.health is not Health.HEALTHY
    ]
