"""What the page shows of incidents: the journal, windows, features that moved, metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlplatform.observing.page.plots import Interval, Plot, plot
from mlplatform.rollouts.drift.incidents import Incident

TONES = {"HEALTHY": "good", "UNHEALTHY": "bad"}
HEALTH = {"HEALTHY": "as the profile", "UNHEALTHY": "drifted", "INCONCLUSIVE": "cannot be told"}


@dataclass(frozen=True, slots=True)
class FeatureShown:
    """How far a feature moved in the last window.

    Args:
        missing_share: of the rows, 0 to 1.
    """

    name: str
    drifted: bool
    psi: float | None
    distance: float | None
    missing_share: float | None
    psi_plot: Plot | None
    distance_plot: Plot | None


@dataclass(frozen=True, slots=True)
class MetricShown:
    """A metric of matured labels in recent days, beside the champion's first days.

    Args:
        is_share: 0 to 1; else times what was expected.
        plot: the value of now within what chance and the policy leave it.
    """

    name: str
    worse: bool
    since_ms: int
    before: float | None
    is_share: bool
    plot: Plot | None


@dataclass(frozen=True, slots=True)
class WindowShown:
    """One window, in event time, and what it said."""

    start_ms: int
    end_ms: int
    rows: int
    health: str
    tone: str
    reasons: tuple[str, ...]
    alerts: Plot | None


@dataclass(frozen=True, slots=True)
class IncidentShown:
    """An incident with its windows, oldest first, and its features, the furthest moved first.

    Args:
        features: of the last window.
        metrics: by the labels that had matured; empty where none had.
    """

    incident: Incident
    reasons: tuple[str, ...]
    windows: tuple[WindowShown, ...]
    features: tuple[FeatureShown, ...]
    metrics: tuple[MetricShown, ...] = ()


def incident(found: Incident) -> IncidentShown:
    """An incident as its evidence and its journal tell it."""
    evidence = found.found.evidence
    windows = list(evidence.get("windows", ()))
    shifts = windows[-1].get("shifts", {}) if windows else {}
    features = [_feature(name, shift) for name, shift in shifts.items()]
    features.sort(key=lambda f: (not f.drifted, -(f.distance or 0.0), f.name))
    return IncidentShown(
        found,
        tuple(map(str, evidence.get("reasons", ()))),
        tuple(map(_window, windows)),
        tuple(features),
        tuple(_metric(n, m) for n, m in evidence.get("performance", {}).get("metrics", {}).items()),
    )


def _metric(name: str, metric: Mapping[str, Any]) -> MetricShown:
    now, before = _number(metric.get("now")), _number(metric.get("before"))
    band = (max(_number(metric.get("low")) or 0.0, 0.0), _number(metric.get("high")))
    share = name != "calibration"
    shown = plot(Interval(now, None, None, band), share=share, from_zero=True)
    return MetricShown(name, bool(metric.get("worse")), metric["since_ms"], before, share, shown)


def _feature(name: str, shift: Mapping[str, Any]) -> FeatureShown:
    psi, distance = _number(shift.get("psi")), _number(shift.get("distance"))
    return FeatureShown(
        name,
        bool(shift.get("drifted")),
        psi,
        distance,
        _number(shift.get("missing_share")),
        _moved(psi, shift.get("psi_limit")),
        _moved(distance, shift.get("distance_limit")),
    )


def _moved(value: float | None, limit: float | None) -> Plot | None:
    return plot(Interval(value, None, None, (None, limit)), share=False, from_zero=True)


def _window(window: Mapping[str, Any]) -> WindowShown:
    health = str(window["health"])
    return WindowShown(
        window["start_ms"],
        window["end_ms"],
        window["rows"],
        HEALTH.get(health, health),
        TONES.get(health, ""),
        tuple(map(str, window.get("reasons", ()))),
        _alerts(window.get("alert_share")),
    )


def _alerts(share: Mapping[str, Any] | None) -> Plot | None:
    if share is None:
        return None
    low, high = share["band"]
    return plot(Interval(share["share"], share["low"], share["high"], (low, high)), share=True)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
