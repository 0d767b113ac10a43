"""Measures of validation on held-out requests: the days of each, and what its limit asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mlplatform.learning.validation import report
from mlplatform.learning.validation.class_measures import CLASS_NAMES
from mlplatform.learning.validation.number_measures import NUMBER_NAMES
from mlplatform.operations.card.card import Card, Data, Validation, ValidationGate
from mlplatform.operations.card.tables import (
    NOT_RECORDED,
    Parts,
    Table,
    baseline_table,
    measures_table,
    number,
)
from mlplatform.runtime.times import day_text, text_of_any

COMPARED: Final = {
    "quality": "average precision",
    **{name: report.MEASURES[name] for name in (*CLASS_NAMES, *NUMBER_NAMES) if name != "bias"},
}
"""Gate → its measure, for gates whose number is a difference from the champion's if there is
one."""
MEASURES: Final = (
    *COMPARED,
    "calibration",
    "bias",
    "small_model",
    "leakage",
    "alert_share",
    "decision_flips",
)
"""Gates whose number was measured on requests outside of the fit."""

_REPLAYED: Final = ("alert_share", "decision_flips")
_AFTER_CALIBRATION: Final = ("calibration", "small_model")
"""Gates of two outcomes that judge on the days for the gates alone."""
_FLIPPED: Final[Mapping[str, str]] = {
    "binary": "decided otherwise",
    "classes": "of another class",
    "real": "whose number moved by more than the tolerance",
}
_LIMITS: Final[Mapping[str, str]] = {
    "quality": "all of the interval at least {}",
    "accuracy": "all of the interval at least {}",
    "macro_f1": "all of the interval at least {}",
    "log_loss": "all of the interval at most {}",
    "mae": "all of the interval at most {}",
    "rmse": "all of the interval at most {}",
    "quantile_loss": "all of the interval at most {}",
    "calibration": "low end at most {}",
    "bias": "some of the interval at most {} above or below 0",
    "small_model": "at least {}",
    "leakage": "less than {}",
}
"""Gate → what its limit asks for; of others, at most that much."""


def held_out(card: Card) -> Parts:
    """The measures on requests outside of the fit, the days of each, and why these differ."""
    found = card.validation
    measured = [gate for gate in found.gates if gate.name in MEASURES]
    if not measured:
        return (), (f"Measures: {NOT_RECORDED}.",), ()
    fields = [("held against", _champion(found))]
    if (pairs := found.compared) is not None:
        counted = (
            f"alerts {pairs.alerts:,}, the champion's {pairs.champion_alerts:,}, of both"
            f" {pairs.both_alerts:,}"
        )
        if pairs.differing is not None:
            counted += f", decided differently {pairs.differing:,}"
        if pairs.flips is not None:
            counted = f"{pairs.flips:,} {_FLIPPED[card.deciding.task]}"
        fields.append(("replayed beside it", f"{pairs.requests:,} requests: {counted}"))
    rows = tuple(
        (
            _measure(gate, found.champion),
            number(gate.observed),
            _ends(gate),
            _limit(gate),
            _days_of_gate(card, gate),
        )
        for gate in measured
    )
    head = ("measure", "value", "interval", "wanted", "measured on")
    caption = "Measured on days held out of this platform's fits; the gates below say how sure"
    days = _days_of_measures(card)
    beside = (*measures_table(found.measures, days), *baseline_table(found.baseline, days))
    tables = (Table(caption, head, rows), *beside)
    return tuple(fields), _why_days_differ(card), tables


def days_for_gates(data: Data) -> str:
    """The days that neither the fit nor the calibration has seen."""
    return f"the days for the gates{_span(data.gates_from_ms, data.to_ms)}"


def _champion(found: Validation) -> str:
    if found.champion is None:
        return "no champion"
    champion = f"champion {found.champion}"
    version = found.champion_version
    return champion if version is None else f"version {version}, the {champion}"


def _all_days(data: Data) -> str:
    return f"all held-out days{_span(data.holdout_from_ms, data.to_ms)}"


def _days_of_measures(card: Card) -> str:
    is_binary = card.deciding.task == "binary"
    return days_for_gates(card.data) if is_binary else _all_days(card.data)


def _days_of_gate(card: Card, gate: ValidationGate) -> str:
    if gate.name in _REPLAYED:
        return "replayed requests; the gate below says which"
    if gate.name in _AFTER_CALIBRATION:
        return _days_of_measures(card)
    return _all_days(card.data)


def _why_days_differ(card: Card) -> tuple[str, ...]:
    if card.deciding.task != "binary":
        return ()
    return (
        "Raw scores are ranked on all held-out days, since calibration does not change the order."
        " Whatever depends on the calibration is measured on the days for the gates alone: the"
        " held-out days before them set the calibration and the thresholds. So the two tables can"
        " have different numbers of one measure, on different numbers of positives.",
    )


def _span(from_ms: int | None, to_ms: int) -> str:
    if from_ms is None:
        return ""
    first, last = text_of_any(from_ms, day_text), text_of_any(to_ms - 1, day_text)
    return f" ({first})" if first == last else f" ({first} to {last})"


def _measure(gate: ValidationGate, champion: str | None) -> str:
    if (measured := COMPARED.get(gate.name)) is not None:
        return measured + (", less the champion's" if champion else "")
    return report.TITLES.get(gate.name, gate.name)


def _ends(gate: ValidationGate) -> str:
    if gate.low is None or gate.high is None:
        return NOT_RECORDED
    return f"{number(gate.low)} to {number(gate.high)}"


def _limit(gate: ValidationGate) -> str:
    if gate.limit is None:
        return NOT_RECORDED
    is_below = gate.observed is not None and gate.observed < gate.limit
    if gate.name == "alert_share" and gate.verdict == "failed" and is_below:
        return f"{number(gate.limit)}; the gate below says whether it is the least or the most"
    return _LIMITS.get(gate.name, "at most {}").format(number(gate.limit))
