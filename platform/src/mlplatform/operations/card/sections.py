"""A card in words: sections of fields, sentences and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from mlplatform.learning.validation import report
from mlplatform.operations.card.card import (
    Card,
    CardEvent,
    Identity,
    Input,
    NamedEstimate,
    Outcome,
    Rollout,
    Stretch,
)
from mlplatform.operations.card.held_out import held_out
from mlplatform.operations.card.tables import (
    NOT_RECORDED,
    Fields,
    Lines,
    Parts,
    Table,
    analysis_text,
    fairness_parts,
    number,
)
from mlplatform.rollouts.drift.performance import CALIBRATION, ERROR
from mlplatform.rollouts.passes.summary import mark, title
from mlplatform.runtime.figures import percent, span
from mlplatform.runtime.times import text_of_any, utc_minute_text

TREATMENTS = {
    "leave_out": "they are left out",
    "weight": "requests that were let through at random represent them",
    "pseudo_label": "they count as positive if the known outcomes are precise enough; otherwise"
    " they are left out",
}
CLASS_WEIGHTS = {
    "none": "as all others",
    "square_root": "by the square root of how much rarer they are than the most frequent class",
    "balanced": "by how much rarer they are than the most frequent class",
}
METHODS = {
    "tree_shap": "TreeSHAP: Shapley values of the margin, which add up to it",
    "reference_values": "reference values: by how much the {word} falls with one input at its usual"
    " value",
}

_ROWS_OF_A_RULE: Final = 3
"""From so many inputs on, a sentence about them is a numbered rule."""


@dataclass(frozen=True, slots=True)
class Section:
    """One part of a card: fields first, then sentences, then tables."""

    title: str
    fields: Fields = ()
    lines: Lines = ()
    tables: tuple[Table, ...] = ()


def sections(card: Card) -> tuple[Section, ...]:
    """The sections of the card; a section without records says so."""
    return (
        Section("What it decides, and for what", _purpose(card), tables=_thresholds(card)),
        Section("Limits: what was not shown, or is not known", lines=card.limits),
        Section("Who answers for it", _people(card), *_approvals(card)),
        Section("Data", _data(card)),
        Section("Labels and hidden outcomes", _labels(card)),
        Section("On held-out requests", *held_out(card)),
        Section("Protected attributes", *fairness_parts(card.validation)),
        Section("Gates of validation", *_validation(card)),
        Section("Inputs", (), *_inputs(card.inputs)),
        *_rollouts(card),
        Section("Matured performance", *_matured(card)),
        Section("Incidents", *_incidents(card)),
        Section("Explanations of its decisions", _explanations(card)),
        Section("How to compute it again", tables=(_replay(card),)),
    )


def _purpose(card: Card) -> Fields:
    found, deciding = card.identity, card.deciding
    stops = ", ".join(f"{name} {percent(share)}" for name, share in deciding.limits.items())
    how = deciding.alert_how or NOT_RECORDED
    if deciding.alert_share is not None:
        how = f"{percent(deciding.alert_share)} ({how})"
    flags = any(outcome.is_alert for outcome in deciding.outcomes)
    alerts = (
        ("alerts expected in traffic", span(deciding.alert_low, deciding.alert_high)),
        ("alerts predicted", how),
    )
    return (
        ("purpose", found.purpose),
        ("now", found.place),
        *([("gives", deciding.number)] if deciding.number is not None else []),
        ("where nothing can decide", deciding.safe),
        *(alerts if flags else (("alerts", "none: no outcome is one"),)),
        ("gateways stop it beyond", f"{stops} of customers" if stops else "no limit is set"),
    )


def _thresholds(card: Card) -> tuple[Table, ...]:
    found, deciding = _outcomes(card), card.deciding
    if not deciding.segments:
        return (found,)
    others = [outcome.name for outcome in deciding.outcomes[1:]]
    rows = tuple(
        (
            segment.name,
            segment.requests,
            *(number(segment.from_scores.get(name)) for name in others),
            f"{segment.rows:,}",
            f"{segment.positives:,}",
        )
        for segment in deciding.segments
    )
    head = ("segment", "requests with", *(f"{name} from" for name in others))
    caption = "Segments with thresholds of their own; the first in which a request lies counts"
    return found, Table(caption, (*head, "held-out requests", "positives"), rows)


def _outcomes(card: Card) -> Table:
    if card.deciding.task == "classes":
        classes = tuple((o.name, "yes" if o.is_alert else "no") for o in card.deciding.outcomes)
        caption = "Classes, of which the most probable one is decided"
        return Table(caption, ("class", "alert"), classes)
    least = "0" if card.deciding.number is None else "the lowest"
    rows = tuple(
        (
            outcome.name,
            least if place == 0 else number(outcome.from_score),
            NOT_RECORDED if outcome.share is None else percent(outcome.share),
            "yes" if outcome.is_alert else "no",
            _label_of(outcome),
        )
        for place, outcome in enumerate(card.deciding.outcomes)
    )
    word = card.deciding.score_word
    head = ("outcome", f"from {word}", "planned share", "alert", "label")
    lowest = word if card.deciding.number is not None else f"calibrated {word}"
    of = " of requests in no segment" if card.deciding.segments else ""
    return Table(f"Outcomes{of}, from the lowest {lowest} to the highest", head, rows)


def _label_of(outcome: Outcome) -> str:
    if not outcome.hides_label:
        return "can come"
    return "by a person's review alone" if outcome.is_reviewed else "never"


def _people(card: Card) -> Fields:
    found = card.identity
    return (
        ("owner", found.owner),
        ("team", found.team or NOT_RECORDED),
        ("tier", str(found.tier)),
        ("author of the version", found.author),
        ("reason for it", found.reason or NOT_RECORDED),
        ("registered", _moment(found.registered_ms)),
        ("bundle", found.bundle),
        ("MLflow run", found.run_id or NOT_RECORDED),
        ("code", found.code or NOT_RECORDED),
        ("model's origin", found.origin or NOT_RECORDED),
        ("model's folder", _folder(found)),
    )


def _folder(found: Identity) -> str:
    if found.folder is None:
        return NOT_RECORDED
    same = {True: "as it is today", False: "changed since", None: NOT_RECORDED}
    return f"{found.folder} ({same[found.is_of_present_folder]})"


def _approvals(card: Card) -> tuple[Lines, tuple[Table, ...]]:
    if not card.approvals:
        return (f"Approvals: {NOT_RECORDED}.",), ()
    rows = tuple(
        (
            approval.rollout,
            approval.approver,
            approval.answer,
            approval.proven_by or NOT_RECORDED,
            _moment(approval.at_ms),
            approval.bound_to,
            approval.reason,
        )
        for approval in card.approvals
    )
    head = ("rollout", "who", "answer", "proven by", "at", "evidence shown", "reason")
    return (), (Table("Answers of people, as the journal holds them", head, rows),)


def _data(card: Card) -> Fields:
    data = card.data
    held = (data.holdout_from_ms, data.gates_from_ms)
    return (
        ("digest", data.digest),
        ("requests", NOT_RECORDED if data.rows is None else _requests(data.rows, data.units_share)),
        ("from", _moment(data.from_ms)),
        ("fitted until", _moment(held[0])),
        ("calibrated until", _moment(held[1])),
        ("judged until", _moment(data.to_ms)),
        ("as known at", _moment(data.as_of_ms)),
        ("seed", str(card.identity.seed)),
    )


def _requests(rows: int, units_share: float) -> str:
    return (
        f"{rows:,}" if units_share >= 1 else f"{rows:,}, of {percent(units_share)} of the customers"
    )


def _labels(card: Card) -> Fields:
    labels = card.labels
    come = "not judged: no gate on labels in traffic has spoken"
    if None not in (labels.come_share, labels.come_low, labels.come_high, labels.come_days):
        come = (
            f"{percent(labels.come_share or 0.0)} of the labels that come within"
            f" {labels.come_days:.3g} days had arrived when they were last judged"
            f" (interval {span(labels.come_low or 0.0, labels.come_high or 0.0)})"
        )
    explored = labels.exploration_share
    absent = "the outcome is unknown" if card.deciding.task != "binary" else "it did not happen"
    hides = ", ".join(labels.hides)
    are_positive = card.deciding.task == "binary"
    return (
        ("label", labels.name),
        ("mature after", f"{labels.maturity_days} days; without a label by then {absent}"),
        *([("positive labels in its data", _count(labels.positives))] if are_positive else []),
        *([("arrival of positive labels", come)] if are_positive else []),
        ("hidden by", hides or "no decision"),
        ("in training", TREATMENTS.get(labels.treatment, labels.treatment) if hides else "none"),
        ("in this version's data", labels.treated or NOT_RECORDED),
        ("rare classes in a fit", CLASS_WEIGHTS.get(labels.class_weight, labels.class_weight)),
        ("let through to learn", "none" if explored is None else percent(explored)),
    )


def _count(found: int | None) -> str:
    return NOT_RECORDED if found is None else f"{found:,}"


def _validation(card: Card) -> Parts:
    if not card.validation.gates:
        return (), (f"The gate report is {NOT_RECORDED}.",), ()
    rows = tuple(
        (report.TITLES.get(g.name, g.name), report.mark(msgspec.structs.asdict(g)), g.reason)
        for g in card.validation.gates
    )
    return (), (), (Table("Before it met traffic", ("gate", "verdict", "why"), rows),)


def _inputs(found: Sequence[Input]) -> tuple[Lines, tuple[Table, ...]]:
    """The inputs as a table; what holds for many of them stands once, above it."""
    held = Counter(text for i in found for text in (i.missing, i.stale) if text is not None)
    shared = [text for text, rows in held.items() if rows >= _ROWS_OF_A_RULE]
    names = {text: f"rule {number}" for number, text in enumerate(shared, 1)}
    rows = tuple(
        (
            i.name,
            i.made_of,
            names.get(i.missing, i.missing),
            "does not apply" if i.stale is None else names.get(i.stale, i.stale),
            number(i.usual),
            number(i.stability),
        )
        for i in found
    )
    stale = "where it is stale or unavailable"
    head = ("input", "made of", "where it is missing", stale, "usual", "moved over time (PSI)")
    lines = tuple(f"{name.capitalize()}: {text}." for text, name in names.items())
    return lines, (Table("In the order of the model", head, rows),)


def _rollouts(card: Card) -> Iterator[Section]:
    if not card.rollouts:
        yield Section("Rollouts", lines=(f"Rollouts of this version: {NOT_RECORDED}.",))
    for rollout in card.rollouts:
        yield Section(f"Rollout {rollout.id}", _rollout(rollout), tables=_of_steps(rollout))


def _rollout(rollout: Rollout) -> Fields:
    planned = "it can decide within its deadlines" if rollout.planned == "" else rollout.planned
    newest = "none is kept" if rollout.analysis is None else analysis_text(rollout.analysis)
    asked = {"required": "required", "none": "not asked for"}.get(rollout.approval or "")
    return (
        ("phase", rollout.phase.replace("_", " ")),
        ("opened by", rollout.opened_by or NOT_RECORDED),
        ("author", rollout.author),
        ("approval", asked or NOT_RECORDED),
        ("kind", _kind(rollout)),
        ("plan", planned or NOT_RECORDED),
        ("promoted", _moment(rollout.promoted_ms, "not promoted")),
        ("ended", _moment(rollout.ended_ms, "not ended")),
        ("newest interim analysis", newest),
    )


def _kind(rollout: Rollout) -> str:
    if rollout.emergency:
        return "emergency promotion"
    return "first champion" if rollout.first else "ramp"


def _of_steps(rollout: Rollout) -> tuple[Table, ...]:
    rows = tuple(
        (_moment(step.event_ms), step.what, step.actor, step.reason, (step.evidence or "none")[:12])
        for step in rollout.steps
    )
    head = ("event time", "what", "by", "reason", "evidence")
    steps = Table("What happened", head, rows)
    return (steps, *(_gates(step) for step in rollout.steps if step.gates))


def _gates(step: CardEvent) -> Table:
    rows = tuple(
        (
            title(gate.name),
            mark(gate.verdict, holds=gate.holds, reason=gate.headline),
            gate.headline,
        )
        for gate in step.gates
    )
    counted = "" if step.records is None else f", counted in {step.records:,} records"
    caption = f"Before {_moment(step.event_ms)} ({step.what}): {step.verdict}{counted}"
    return Table(caption, ("gate", "verdict", "headline"), rows)


def _matured(card: Card) -> Parts:
    own, of_pairs = _as_champion(card), _of_pairs(card)
    return own[0] + of_pairs[0], own[1] + of_pairs[1], own[2] + of_pairs[2]


def _as_champion(card: Card) -> Parts:
    matured = card.matured
    if matured is None or not matured.stretches:
        return (), (f"As champion: {NOT_RECORDED}.",), ()
    fields = (
        ("champion since", _moment(matured.since_ms)),
        ("as seen at", _moment(matured.seen_ms)),
    )
    counts = (
        "Recall and precision count the highest scores of each day, as many as people have time"
        " for."
    )
    lines = (counts,) if card.deciding.task == "binary" else ()
    return fields, lines, tuple(map(_stretch, matured.stretches))


def _stretch(stretch: Stretch) -> Table:
    caption = (
        f"As champion, {stretch.days:,} days from {_moment(stretch.from_ms)} to"
        f" {_moment(stretch.to_ms)}: {stretch.requests:,} requests"
    )
    head = ("metric", "value", "95 % interval, at every check")
    rows = tuple((m.name, _value(m), _between(m)) for m in stretch.metrics)
    return Table(caption, head, rows)


def _of_pairs(card: Card) -> Parts:
    pairs = card.pairs
    if pairs is None and card.deciding.task != "binary":
        return (), (), ()  # the gates of its rollouts show these labels
    if pairs is None:
        return (), (f"On requests that both versions scored: {NOT_RECORDED}.",), ()
    caption = (
        f"On requests that both scored in shadow ({pairs.rollout}), {pairs.positives:,} of them"
        " positive; each end of an interval is as certain as the rollout's gates"
    )
    rows = tuple(
        (mine.name, _value(mine), _between(mine), _value(other), _between(other))
        for mine, other in zip(pairs.challenger, pairs.champion, strict=True)
    )
    head = ("metric", "this version", "interval", "the champion then", "interval")
    return (), (pairs.headline,), (Table(caption, head, rows),)


def _value(found: NamedEstimate) -> str:
    if found.value is None:
        return NOT_RECORDED
    return _WRITTEN.get(found.name, percent)(found.value)


def _between(found: NamedEstimate) -> str:
    if found.low is None or found.high is None:
        return NOT_RECORDED
    if found.name == CALIBRATION:
        return f"{found.low:.2f} to {_times(found.high)}"
    if found.name == ERROR:
        return f"{found.low:.4g} to {found.high:.4g}"
    return span(found.low, found.high)


def _times(ratio: float) -> str:
    return f"{ratio:.2f} times what the scores said"


_WRITTEN: Final[Mapping[str, Callable[[float], str]]] = {
    CALIBRATION: _times,
    ERROR: lambda mean: f"{mean:.4g}",
}
"""Formats of metrics that are not shares."""


def _incidents(card: Card) -> Parts:
    if not card.incidents:
        return (), ("None is on record about this version.",), ()
    rows = tuple(
        (i.id, i.kind, i.relation, i.state, _moment(i.opened_ms), i.note) for i in card.incidents
    )
    head = ("incident", "kind", "relation to the version", "state", "opened", "note")
    return (), (), (Table("Drift, drops of performance and faults of data", head, rows),)


def _explanations(card: Card) -> Fields:
    found, word = card.explanations, card.deciding.score_word
    if found is None:
        return (("method", NOT_RECORDED),)
    against = (("against Shapley values", found.why),) if found.why else ()
    return (
        ("method", METHODS.get(found.method, found.method).format(word=word)),
        (f"link to the raw {word}", found.link),
        *against,
    )


def _replay(card: Card) -> Table:
    return Table("On this installation", ("command", "what it computes"), card.replay)


def _moment(ms: int | None, none: str = NOT_RECORDED) -> str:
    return none if ms is None else text_of_any(ms, utc_minute_text)
