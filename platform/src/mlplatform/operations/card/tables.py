"""Tables of a card: measures and protected groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mlplatform.learning.fairness.outcomes import FOUR_FIFTHS
from mlplatform.learning.validation import report
from mlplatform.operations.card.card import (
    CardAnalysis,
    Validation,
)
from mlplatform.operations.card.measures import (
    CardAttribute,
    CardFairness,
    CardGroup,
    CardGroupMeasures,
    CardMeasure,
    CardMeasuredGroup,
    Estimate,
)
from mlplatform.runtime.figures import percent, span
from mlplatform.runtime.times import text_of_any, utc_minute_text

Fields = tuple[tuple[str, str], ...]
Lines = tuple[str, ...]

NOT_RECORDED: Final = "not recorded"
NOT_KNOWN: Final = "not known"
TOO_FEW: Final = "too few for an interval"
NO_ESTIMATE: Final = Estimate(value=None, low=None, high=None)


@dataclass(frozen=True, slots=True)
class Table:
    """A table; each row is as long as the head."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Parts = tuple[Fields, Lines, tuple[Table, ...]]


def number(value: float | None) -> str:
    """The number with four digits, or that it is not recorded."""
    return NOT_RECORDED if value is None else f"{value:.4g}"


def analysis_text(found: CardAnalysis) -> str:
    """An interim analysis in words: its verdict, its time, and what it counted."""
    at = text_of_any(found.event_ms, utc_minute_text)
    return f"{found.verdict} ({at}, {found.records:,} records)"


def measures_table(measures: Sequence[CardMeasure], days: str) -> tuple[Table, ...]:
    """One table of measures; none if an earlier release wrote the report.

    Args:
        days: the days on which they were measured.
    """
    if not measures:
        return ()
    rows = tuple(
        (
            report.MEASURES.get(found.name, found.name),
            _number(found.candidate),
            "no champion" if found.champion is None else _number(found.champion),
            "no champion" if found.difference is None else _number(found.difference, "+"),
        )
        for found in measures
    )
    is_first = all(found.champion is None for found in measures)
    both = "" if is_first else "; both models on the same rows"
    caption = f"Of the scores as answered, on {days}{both}; 90 % intervals by customer"
    return (Table(caption, ("measure", "this version", "the champion then", "difference"), rows),)


def baseline_table(measures: Sequence[CardMeasure], days: str) -> tuple[Table, ...]:
    """One table of measures beside the folder's simpler model; none if the folder had none.

    Args:
        days: the days on which they were measured.
    """
    if not measures:
        return ()
    rows = tuple(
        (
            report.MEASURES.get(found.name, found.name),
            _number(found.candidate),
            _number(found.champion or NO_ESTIMATE),
            _number(found.difference or NO_ESTIMATE, "+"),
        )
        for found in measures
    )
    caption = (
        "Beside the baseline in the folder's training.py, fitted to the same requests and not "
        f"calibrated, on {days}; 90 % intervals by customer"
    )
    return (Table(caption, ("measure", "this version", "the baseline", "difference"), rows),)


def fairness_parts(found: Validation) -> Parts:
    """The groups of protected attributes, by outcomes or by errors."""
    if found.group_measures is not None:
        return _errors(found.group_measures)
    if found.fairness is not None:
        return _outcomes(found.fairness)
    return (), ("No attribute was declared as protected: no groups were compared.",), ()


def _errors(found: CardGroupMeasures) -> Parts:
    """Errors by protected group on the held-out days."""
    fields = (
        ("labelled requests", f"{found.rows:,}"),
        *((("unit", found.unit),) if found.unit else ()),
        ("intervals", f"90 % by customer; of comparisons {percent(found.level)}"),
    )
    lines = (
        "No input reads one of these.",
        *_unknown(found.attributes),
    )
    return fields, lines, tuple(map(_measured, found.attributes))


def _measured(found: CardAttribute[CardMeasuredGroup]) -> Table:
    measures = [one.name for group in found.groups[:1] for one in group.measures]
    keys = list(dict.fromkeys(key for group in found.groups for key in group.compared))
    beside = any(one.difference is not None for group in found.groups for one in group.measures)
    names = [report.MEASURES[name] for name in measures]
    head = (
        *("group", "requests", "customers", *names),
        *((f"{name}, to the champion's" for name in names) if beside else ()),
        *(f"{report.COMPARED[key]} {found.reference}" for key in keys),
    )
    rows = tuple(
        (
            *(group.group, f"{group.rows:,}", f"{group.units:,}"),
            *(_number(m.candidate, report.SIGNS.get(m.name, "")) for m in group.measures),
            *(
                (_number(m.difference or NO_ESTIMATE, "+") for m in group.measures)
                if beside
                else ()
            ),
            *(
                _number(group.compared[key], report.SIGNS.get(key, ""))
                if group.compared
                else "reference"
                for key in keys
            ),
        )
        for group in found.groups
    )
    note = f"the reference is {found.reference}" if rows else "no group is known"
    return Table(f"By {found.attribute}; {note}", head, rows)


def _unknown(
    attributes: Sequence[CardAttribute[CardGroup]] | Sequence[CardAttribute[CardMeasuredGroup]],
) -> Lines:
    return tuple(
        f"The {found.attribute} of {found.unknown:,} of the requests is not known."
        for found in attributes
        if found.unknown
    )


def _outcomes(fairness: CardFairness) -> Parts:
    """Decisions by protected group on the days for the gates."""
    fields = (
        ("adverse outcomes", ", ".join(fairness.adverse)),
        ("requests", f"{fairness.rows:,}"),
        ("intervals", f"90 % by customer; of ratios {percent(fairness.ratio_level)}"),
    )
    lines = (
        "No input reads one of these. Rates and calibration are of requests whose outcome is"
        " known; a share of favourable outcomes under four fifths of the best group's is marked"
        " (29 CFR 1607.4(D)), as information.",
        *_unknown(fairness.attributes),
    )
    return fields, lines, tuple(map(_attribute, fairness.attributes))


def _attribute(found: CardAttribute[CardGroup]) -> Table:
    head = (
        *("group", "requests", "positives", "adverse share", "ratio to the reference"),
        *("of positives", "of negatives", "mean score", "observed", "favourable, of the best"),
    )
    rows = tuple(_group(group) for group in found.groups)
    note = f"the reference is {found.reference}" if rows else "no group is known"
    return Table(f"By {found.attribute}; {note}", head, rows)


def _group(group: CardGroup) -> tuple[str, ...]:
    ratio, favourable = group.adverse_share_ratio, group.favourable_ratio
    mark = " (under four fifths)" if favourable is not None and favourable < FOUR_FIFTHS else ""
    return (
        group.group,
        f"{group.rows:,}",
        f"{group.positives:,} of {group.known:,}",
        _share(group.adverse_share),
        "reference" if ratio is None else _number(ratio),
        _share(group.true_positive_rate),
        _share(group.false_positive_rate),
        NOT_KNOWN if group.mean_score is None else percent(group.mean_score),
        _share(group.observed),
        NOT_KNOWN if favourable is None else f"{favourable:.2f}{mark}",
    )


def _share(found: Estimate) -> str:
    if found.value is None:
        return NOT_KNOWN
    if found.low is None or found.high is None:
        return f"{percent(found.value)} ({TOO_FEW})"
    return f"{percent(found.value)} ({span(found.low, found.high)})"


def _number(found: Estimate, sign: str = "") -> str:
    form = f"{{:{sign}.3f}}"
    if found.low is not None and found.high is None:
        return f"{form.format(found.low)} or more"
    if found.value is None:
        return NOT_KNOWN
    if found.low is None or found.high is None:
        return f"{form.format(found.value)} ({TOO_FEW})"
    return f"{form.format(found.value)} ({form.format(found.low)} to {form.format(found.high)})"
