"""Has the traffic drifted away from what the champion learned from? Pure answers, with reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from mlplatform.model.definition import DriftPolicy
from mlplatform.model.profile import Column, Floats, Profile
from mlplatform.rollouts.drift.measures import Shift, share_interval, shift

PRESENT_SHARE = 0.5  # of the values to be expected: with fewer, the source is broken, not drifted


class Health(StrEnum):
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True)
class Band:
    """Where validation expects the share of alerts to stay."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """The logged decisions of a stretch of event time, one model, as columns.

    Args:
        inputs: by name, one value for each payment, NaN where it was missing.
        units: the assignment unit of each payment.
        scores, alerts, scored_units: only of payments that the champion scored, not degraded.
        gaps: why records may be missing; empty for a complete window.
    """

    start_ms: int
    end_ms: int
    inputs: Mapping[str, Floats]
    units: npt.NDArray[np.int64]
    scores: Floats
    alerts: npt.NDArray[np.bool_]
    scored_units: npt.NDArray[np.int64]
    gaps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AlertShare:
    """The share of alerts, its interval, and the band that it belongs in."""

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
    """What one window says; UNHEALTHY means drifted."""

    start_ms: int
    end_ms: int
    rows: int
    health: Health
    reasons: tuple[str, ...]
    shifts: tuple[Shift, ...] = ()
    alert_share: AlertShare | None = None


@dataclass(frozen=True, slots=True)
class Drifted:
    """Enough windows drifted; the change is dated to the start of the first of them."""

    since_ms: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Steady:
    """Too few windows drifted, whatever the undecided ones would say."""

    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Undecided:
    """The undecided windows could make it drift: no data is not health."""

    reasons: tuple[str, ...]


DriftVerdict = Drifted | Steady | Undecided


def drift_verdict(windows: Sequence[WindowVerdict], policy: DriftPolicy) -> DriftVerdict:
    """Whether `drifted_windows` of the last `windows` windows drifted.

    Windows that do not exist yet count as undecided.
    """
    last = sorted(windows, key=lambda w: w.start_ms)[-policy.windows :]
    drifted = [w for w in last if w.health is Health.UNHEALTHY]
    healthy = [w for w in last if w.health is Health.HEALTHY]
    undecided = policy.windows - len(drifted) - len(healthy)
    count = f"{len(drifted)} of {policy.windows} windows drifted, {undecided} undecided"
    reasons = (f"{count}; {policy.drifted_windows} make an incident", *_reasons(last))
    if len(drifted) >= policy.drifted_windows:
        return Drifted(since_ms=drifted[0].start_ms, reasons=reasons)
    if len(drifted) + undecided >= policy.drifted_windows:
        return Undecided(reasons)
    return Steady(reasons)


def window_verdict(
    profile: Profile, window: Window, policy: DriftPolicy, band: Band
) -> WindowVerdict:
    """Whether one window of decisions looks like the champion's profile.

    One drifted input, score or alert share makes it UNHEALTHY. A window that is not complete or
    too small is INCONCLUSIVE whatever it holds; one where something could not be measured is
    INCONCLUSIVE unless something else drifted.
    """
    if window.gaps or len(window.units) < policy.minimum_rows:
        few = f"{len(window.units)} payments; at least {policy.minimum_rows} are needed"
        return _judged(window, Health.INCONCLUSIVE, window.gaps or (few,))
    checks = _DriftChecks(profile.rows, policy)
    for name in policy.inputs:
        checks.check(name, profile.inputs.get(name), window.inputs.get(name), window.units)
    checks.check("score", profile.score, window.scores, window.scored_units)
    alerts = checks.check_alerts(window, band)
    if checks.drifted:
        return _judged(window, Health.UNHEALTHY, tuple(checks.drifted), checks.shifts, alerts)
    if checks.unknown:
        return _judged(window, Health.INCONCLUSIVE, tuple(checks.unknown), checks.shifts, alerts)
    return _judged(window, Health.HEALTHY, ("nothing moved",), checks.shifts, alerts)


def plain(verdict: WindowVerdict) -> dict[str, Any]:
    """The verdict as evidence: plain JSON, no NaN."""
    alerts = verdict.alert_share
    return {
        "start_ms": verdict.start_ms,
        "end_ms": verdict.end_ms,
        "rows": verdict.rows,
        "health": str(verdict.health),
        "reasons": list(verdict.reasons),
        "shifts": {
            s.name: {
                "psi": s.psi,
                "psi_limit": s.psi_limit,
                "distance": s.distance,
                "distance_limit": s.distance_limit,
                "missing_share": s.missing_share,
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
    """Looks at one number after another and sorts what it finds."""

    def __init__(self, profile_rows: int, policy: DriftPolicy) -> None:
        self.shifts: list[Shift] = []
        self.drifted: list[str] = []
        self.unknown: list[str] = []
        self._profile_rows = profile_rows
        self._policy = policy
        looks = 2 * (len(policy.inputs) + 1) + 1  # two statistics a number, and the alert share
        self._error_share = policy.false_alarm_share / looks  # Bonferroni

    def check(
        self,
        name: str,
        column: Column | None,
        values: Floats | None,
        units: npt.NDArray[np.int64],
    ) -> None:
        if column is None or values is None:
            where = "profile" if column is None else "window"
            self.unknown.append(f"{name} is not in the {where}")
            return
        expected = self._policy.minimum_rows * (1 - column.missing_share)
        present = int(np.sum(np.isfinite(values)))
        if len(values) < self._policy.minimum_rows or present < expected * PRESENT_SHARE:
            self.unknown.append(f"{name} has {present} values of {len(values)}: too few to judge")
            return
        seen = shift(
            name,
            column,
            values,
            units,
            self._policy,
            profile_rows=self._profile_rows,
            error_share=self._error_share,
        )
        self.shifts.append(seen)
        if seen.drifted:
            self.drifted.append(_shift_reason(seen, column))

    def check_alerts(self, window: Window, band: Band) -> AlertShare | None:
        if len(window.alerts) < self._policy.minimum_rows:
            return None  # then the score is unknown as well
        low, high = share_interval(window.alerts, window.scored_units, self._error_share)
        seen = AlertShare(len(window.alerts), int(np.sum(window.alerts)), low, high, band)
        if seen.outside:
            self.drifted.append(_alert_reason(seen))
        return seen


def _shift_reason(seen: Shift, column: Column) -> str:
    text = (
        f"{seen.name} moved: PSI {seen.psi:.3f} (limit {seen.psi_limit:.2g}), "
        f"distance {seen.distance:.2f} sd (limit {seen.distance_limit:.2g})"
    )
    if abs(seen.missing_share - column.missing_share) > 0.01:
        return f"{text}, missing {column.missing_share:.1%} before, {seen.missing_share:.1%} now"
    return text


def _alert_reason(seen: AlertShare) -> str:
    return (
        f"alerts are {seen.share:.2%} of {seen.rows} payments (interval {seen.low:.2%} to "
        f"{seen.high:.2%}), outside their band of {seen.band.low:.2%} to {seen.band.high:.2%}"
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
        f"{datetime.fromtimestamp(w.start_ms / 1000, UTC):%Y-%m-%d %H:%M} {w.health}: "
        + "; ".join(w.reasons)
        for w in windows
        if w.health is not Health.HEALTHY
    ]
