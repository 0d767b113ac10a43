"""Incidents as the page shows them: journal, windows, features that moved, metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlplatform.model.rhythm import SCORE
from mlplatform.observing.page.pictures.gates import TONES
from mlplatform.observing.page.queries.plots import Plot, PlottedInterval, plot
from mlplatform.rollouts.drift.incidents import FAULT, PERFORMANCE, Change, Incident
from mlplatform.rollouts.drift.retrain import MAX_CLAIMS
from mlplatform.rollouts.journal.state import RolloutState

MOST_CAUSES: Final = 3
ONE_WAY: Final = 0.5
"""Part of a movement that goes one way, from which on it is told as up or down."""
MOST_SUMMARY: Final = 80
"""Characters of a window's reasons that a row shows; the rest is folded away."""
ROLL_BACK: Final = "roll the champion back, if its promotion began this"
HEALTH = {"HEALTHY": "as the profile", "UNHEALTHY": "drifted", "INCONCLUSIVE": "inconclusive"}


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """The movement of a feature in the last window.

    Args:
        missing_share: share of rows with a missing value, 0 to 1; None if it is not known.
    """

    name: str
    drifted: bool
    psi: float | None
    distance: float | None
    missing_share: float | None
    psi_plot: Plot | None
    distance_plot: Plot | None


@dataclass(frozen=True, slots=True)
class MetricRow:
    """A metric of matured labels in recent days, beside the champion's first days.

    Args:
        before: the value in the first days, as text; empty if it is not known.
        plot: the present value, within the range that chance and the policy allow.
    """

    name: str
    worse: bool
    since_ms: int
    before: str
    plot: Plot | None


@dataclass(frozen=True, slots=True)
class WindowRow:
    """One window, in event time, with its verdict."""

    start_ms: int
    end_ms: int
    rows: int
    health: str
    tone: str
    reasons: tuple[str, ...]
    alerts: Plot | None

    @property
    def summary(self) -> str:
        return summary(self.reasons)


@dataclass(frozen=True, slots=True)
class IncidentDetail:
    """An incident with its windows, oldest first, and its features, those that moved most first.

    Args:
        cause: a sentence about what moved, dropped or broke; empty if the evidence names nothing.
        advice: what happens next, and what a person can do.
        command: the command that does it; empty if there is none.
        rollout_id: rollout of the version that answers the incident; empty if none is known.
        notes: the journal's changes, each with its note. A claim after another one says what became
            of the retrain before.
        features: the features in the last window.
        metrics: metrics of matured labels; empty if no label has matured.
    """

    incident: Incident
    cause: str
    advice: str
    command: str
    reasons: tuple[str, ...]
    windows: tuple[WindowRow, ...]
    features: tuple[FeatureRow, ...]
    metrics: tuple[MetricRow, ...] = ()
    rollout_id: str = ""
    notes: tuple[tuple[Change, str], ...] = ()

    @property
    def has_alerts(self) -> bool:
        """Whether a share of alerts was judged in any window."""
        return any(window.alerts is not None for window in self.windows)

    @property
    def names_roll_back(self) -> bool:
        """Whether the advice names the roll back of the champion."""
        return ROLL_BACK in self.advice


def incident(
    found: Incident,
    now_ms: int,
    *,
    trains: bool = True,
    score_word: str = SCORE,
    rollouts: Sequence[RolloutState] | None = None,
) -> IncidentDetail:
    """An incident as its evidence and its journal tell it.

    Args:
        now_ms: wall time, by which claims expire.
        trains: whether the model's folder trains it; otherwise the folder holds a ready ONNX file.
        score_word: the name of what the model gives: score, probability or number.
        rollouts: the model's rollouts, newest first; None if nobody has read them.
    """
    answers = [r for r in rollouts or () if r.challenger.version == found.answer]
    answer = answers[0] if answers else None
    evidence = found.found.evidence
    windows = list(evidence.get("windows", ()))
    named = windows[-1].get("shifts", {}) if windows else {}
    shifts = {score_word if name == SCORE else name: shift for name, shift in named.items()}
    features = [_feature(name, shift) for name, shift in shifts.items()]
    features.sort(key=lambda f: (not f.drifted, -_reached(shifts[f.name]), f.name))
    metrics = evidence.get("performance", {}).get("metrics", {})
    reasons = tuple(map(str, evidence.get("reasons", ())))
    return IncidentDetail(
        incident=found,
        cause=_cause(found.found.kind, reasons, shifts, features, metrics, score_word),
        advice=(
            _advice(found, now_ms, trains=trains)
            if rollouts is None or not _is_answered(found)
            else _advice_on_answer(found, answer)
        ),
        command=_command(found, now_ms, answer, trains=trains),
        reasons=reasons,
        windows=tuple(map(_window, windows)),
        features=tuple(features),
        metrics=tuple(_metric(name, metric) for name, metric in metrics.items()),
        rollout_id="" if answer is None else answer.rollout_id,
        notes=_notes(found.changes),
    )


def summary(reasons: Sequence[str]) -> str:
    """The subject of each reason, before its figures, short enough for a row."""
    heads = "; ".join(reason.partition(": ")[0] for reason in reasons)
    whole = "; ".join(reasons)
    text = whole if len(whole) <= MOST_SUMMARY else heads
    return text if len(text) <= MOST_SUMMARY else f"{text[: MOST_SUMMARY - 1]}…"


def _notes(changes: Sequence[Change]) -> tuple[tuple[Change, str], ...]:
    found, claimed = [], False
    for change in changes:
        note = change.note
        if change.state == "claimed":
            if claimed:
                note += (
                    "; the retrain before it ended without an answer, by an error or with its"
                    " process: its run in Prefect says why"
                )
            claimed = True
        found.append((change, note))
    return tuple(found)


def _reached(shift: Mapping[str, Any]) -> float:
    """The share of its limits that a value reached."""
    pairs = ((shift.get(of), shift.get(f"{of}_limit")) for of in ("distance", "psi"))
    known = [(_number(value), _number(limit)) for value, limit in pairs]
    return max((v / m for v, m in known if v is not None and m), default=0.0)


def _cause(
    kind: str,
    reasons: Sequence[str],
    shifts: Mapping[str, Any],
    features: Sequence[FeatureRow],
    metrics: Mapping[str, Any],
    score_word: str,
) -> str:
    if kind == PERFORMANCE:
        worse = [_dropped(n, m) for n, m in metrics.items() if m.get("worse")]
        return "; ".join(worse)
    if kind == FAULT:
        return "; ".join(reasons)
    moved = [f.name for f in features if f.drifted]
    inputs = [name for name in moved if name != score_word]
    if not inputs:
        return "; ".join(f"Moved: {_far(name, shifts[name])}" for name in moved)
    far = "; ".join(_far(name, shifts[name]) for name in inputs[:MOST_CAUSES])
    if score_word in moved:  # it follows its inputs, so it is no cause
        far = f"{far}. The {score_word} moved with them: {_far(score_word, shifts[score_word])}"
    return f"Inputs that moved furthest: {far}"


def _far(name: str, shift: Mapping[str, Any]) -> str:
    distance, most = _number(shift.get("distance")), _number(shift.get("distance_limit"))
    if distance is not None and most is not None and distance > most:
        way = _way(distance, _number(shift.get("rise")))
        return f"{name}, {way}by {distance:.2f} standard deviations ({most:.2g} allowed)"
    psi, most = _number(shift.get("psi")), _number(shift.get("psi_limit"))
    if psi is None or most is None:
        return name
    return f"{name}, in the form of its distribution: PSI {psi:.2g} ({most:.2g} allowed)"


def _way(distance: float, rise: float | None) -> str:
    """The direction of a movement: up or down if nearly all of it goes one way. Evidence of an
    earlier release does not tell it."""
    if rise is None:
        return ""
    if abs(rise) < ONE_WAY * distance:
        return "both up and down, "
    return "up " if rise > 0 else "down "


def _of_share(share: float) -> str:
    return f"{100 * share:.1f} %"


_FORMS: Final[Mapping[str, Callable[[float], str]]] = {
    "calibration": lambda ratio: f"{ratio:.2f} times",
    "error": lambda mean: f"{mean:.4g}",
}
"""Metric that is not a share → how its values are written."""


def _dropped(name: str, metric: Mapping[str, Any]) -> str:
    now, before = _number(metric.get("now")), _number(metric.get("before"))
    if now is None or before is None:
        return f"{name} is worse than in the champion's first days"
    form = _FORMS.get(name, _of_share)
    texts = [form(value) for value in (now, before)]
    return f"{name} is {texts[0]}; it was {texts[1]} in the champion's first days"


def _is_given_up(incident: Incident, now_ms: int) -> bool:
    """Whether no further retrain is started for the incident (`rollouts.drift.retrain`)."""
    return (
        incident.state == "claimed" and incident.claim >= MAX_CLAIMS and incident.until_ms <= now_ms
    )


def _advice(incident: Incident, now_ms: int, *, trains: bool) -> str:
    """Advice on an incident: the next step without a person, and when a person has to act."""
    if incident.state == "closed":
        return "Nothing is left to do."
    if incident.found.kind == FAULT:
        return (
            "Mend the source of the data: nothing is retrained while this incident is open. The"
            " incident closes by itself with the first whole window of sound data."
        )
    if incident.state == "open" and not trains:
        return (
            "Nothing retrains a ready ONNX file: put a newer one into the model's folder and make a"
            f" version of it; or {ROLL_BACK}."
        )
    if _is_given_up(incident, now_ms):
        return (
            f"{incident.claim} retrains were started, none finished, and no other one starts: find"
            " out why, then retrain by hand."
        )
    if incident.state == "claimed" and incident.until_ms <= now_ms:
        return "The last retrain did not finish: the next drift check may start another one."
    if incident.state == "claimed":
        return "A retrain is under way. Another one starts only if it does not finish."
    if incident.state == "answered" and incident.answer is not None:
        return (
            f"The rollout of version {incident.answer} decides whether the version mends this. If"
            " the rollout was taken back, find out why, then retrain by hand."
        )
    if incident.state == "answered":
        return "The retrain made no version: find out why, then retrain by hand."
    return (
        "A retrain starts by itself once enough labels of the new pattern have matured. Do not"
        f" wait for it where you know the cause: retrain by hand; or {ROLL_BACK}."
    )


def _is_answered(incident: Incident) -> bool:
    return incident.state == "answered" and incident.answer is not None


def _advice_on_answer(incident: Incident, rollout: RolloutState | None) -> str:
    """Advice on an incident that a version answers, by the version's rollout."""
    if rollout is None:
        return (
            f"Version {incident.answer} has no rollout yet: the next drift check opens one, or says"
            " why not."
        )
    of = f"The rollout {rollout.rollout_id} of version {incident.answer}"
    if rollout.phase == "rolled_back":
        return f"{of} was taken back: {rollout.reason}. Find out why, then retrain by hand."
    if rollout.ramping:
        return f"{of} decides whether the version mends this. Nothing else starts meanwhile."
    return f"{of} has promoted the version: the next drift check closes this incident."


def _command(incident: Incident, now_ms: int, answer: RolloutState | None, *, trains: bool) -> str:
    if _is_answered(incident) and answer is not None and answer.phase != "rolled_back":
        return f"mlplatform rollouts show {answer.rollout_id}"
    is_taken_back = _is_answered(incident) and answer is not None
    waits = incident.state == "open" or (incident.state == "answered" and incident.answer is None)
    waits = waits or is_taken_back or _is_given_up(incident, now_ms)
    if incident.found.kind == FAULT or not waits:
        return ""
    if not trains:
        return f"mlplatform validate {incident.found.model} --actor YOU"
    return f'mlplatform retrain {incident.found.model} --actor YOU --reason "WHY" --rollout'


def _metric(name: str, metric: Mapping[str, Any]) -> MetricRow:
    now, before = _number(metric.get("now")), _number(metric.get("before"))
    band = (max(_number(metric.get("low")) or 0.0, 0.0), _number(metric.get("high")))
    shown = plot(PlottedInterval(now, None, None, band), share=name not in _FORMS, from_zero=True)
    text = "" if before is None else _FORMS.get(name, _of_share)(before)
    return MetricRow(name, bool(metric.get("worse")), metric["since_ms"], text, shown)


def _feature(name: str, shift: Mapping[str, Any]) -> FeatureRow:
    psi, distance = _number(shift.get("psi")), _number(shift.get("distance"))
    return FeatureRow(
        name,
        bool(shift.get("drifted")),
        psi,
        distance,
        _number(shift.get("missing_share")),
        _moved(psi, shift.get("psi_limit")),
        _moved(distance, shift.get("distance_limit")),
    )


def _moved(value: float | None, limit: float | None) -> Plot | None:
    return plot(PlottedInterval(value, None, None, (None, limit)), share=False, from_zero=True)


def _window(window: Mapping[str, Any]) -> WindowRow:
    health = str(window["health"])
    return WindowRow(
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
    return plot(
        PlottedInterval(share["share"], share["low"], share["high"], (low, high)), share=True
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
