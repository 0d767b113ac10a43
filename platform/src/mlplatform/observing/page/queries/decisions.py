"""Decisions as the page shows them: the newest ones, and every record of one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlplatform.decisions.records.record import ANSWERED, trace_of
from mlplatform.model.policies.cut_offs import RowThresholds
from mlplatform.model.policies.decision_scale import SCORE_WORDS, DecisionScale
from mlplatform.model.tensors.vectors import vector_text
from mlplatform.observing.page.pictures.scales import NONE, probability
from mlplatform.operations.review.opinions import opinion, outcome_text
from mlplatform.runtime.times import duration_text
from mlplatform.runtime.units import HOUR_MS, HOUR_S


def tone(scale: DecisionScale | None, decision: str | None) -> str:
    """How a decision is shown: good is what is no alert, bad is the strongest one; else as other
    text, and so where no scale says what it means."""
    if scale is None or decision is None or decision not in scale.names:
        return ""
    if decision not in scale.alerts:
        return "good"
    return "bad" if decision == scale.names[-1] else ""


@dataclass(frozen=True, slots=True)
class ScoreText:
    """A model's result beside its decision, as people read it.

    Args:
        word: the name of what the model gives: score, probability or number.
    """

    word: str
    text: str


def score_text(scale: DecisionScale | None, score: float | None) -> ScoreText:
    """A score or probability with four decimals, so that small ones can be compared; a number with
    its unit."""
    if scale is None or (number := scale.number) is None:
        return ScoreText(_word(scale), probability(score))
    if score is None:
        return ScoreText(scale.score_word, NONE)
    written = f"{score:,.2f}" if abs(score) >= 1 else f"{score:.4g}"
    return ScoreText(scale.score_word, f"{written} {number.unit}")


def score_heading(scales: Iterable[DecisionScale | None]) -> str:
    """The heading of what models give, of which some may be of one kind and some of another."""
    there = {_word(scale) for scale in scales}
    found = [word for word in SCORE_WORDS.values() if word in there] or [SCORE_WORDS["binary"]]
    *first, last = found
    return f"{', '.join(first)} or {last}".capitalize() if first else last.capitalize()


def _word(scale: DecisionScale | None) -> str:
    return SCORE_WORDS["binary"] if scale is None else scale.score_word


@dataclass(frozen=True, slots=True)
class RecordDetail:
    """One record of a decision.

    Args:
        fields: name and value of every column except the payload that has a value, in the log's
            order.
        reasons: codes of the reasons that raised the score most.
        request: name and value of the request's fields; the person is a keyed hash.
        features: name and value of the features; None if the value was missing.
        feature_times: view → event time of its row, epoch milliseconds.
        feature_gaps: cause and views without a valid row for it.
        begins: where outcomes begin on the score's scale, by the thresholds that decided; empty if
            they are not known.
        failures: arm and reason, for each arm that gave no answer.
        payload: the payload as the log holds it.
    """

    kind: str
    model: str
    fields: tuple[tuple[str, Any], ...]
    event_ms: int
    decision: str | None
    tone: str
    score: ScoreText
    has_score: bool
    begins: str
    version: int | None
    degraded_reason: str | None
    arm: str | None
    answered_by: str | None
    generation: int
    rollout_id: str | None
    latency_us: int | None
    trace_id: str | None
    reasons: tuple[str, ...]
    request: tuple[tuple[str, Any], ...]
    features: tuple[tuple[str, Any], ...]
    feature_times: tuple[tuple[str, int], ...]
    feature_gaps: tuple[tuple[str, str], ...]
    failures: tuple[tuple[str, str], ...]
    payload: Any


def record(
    found: Mapping[str, Any],
    scale: DecisionScale | None,
    pseudonyms: Collection[str] = (),
    held_to: RowThresholds | None = None,
) -> RecordDetail:
    """A record of the log as the page shows it; nothing of it is left out.

    Args:
        found: every column of the log's record, with the payload parsed.
        scale: the model's outcomes; None if no model folder declares them.
        pseudonyms: request fields of which the log holds pseudonyms; the names say so.
        held_to: thresholds that decided it; None if they are not known.
    """
    payload = found["payload"] if isinstance(found["payload"], Mapping) else {}
    fields = tuple((k, v) for k, v in found.items() if v is not None and k != "payload")
    decided = found["kind"] in ANSWERED
    return RecordDetail(
        kind=found["kind"],
        model=found["model"],
        fields=fields,
        event_ms=found["event_ms"],
        decision=found["decision"],
        tone=tone(scale, found["decision"]),
        score=score_text(scale, found["score"]),
        has_score=found["score"] is not None,
        begins="" if held_to is None else _begins(held_to, scale),
        version=found["version"],
        degraded_reason=found["degraded_reason"],
        arm=found["arm"],
        answered_by=found["answered_by"],
        generation=found["generation"],
        rollout_id=found["rollout_id"],
        latency_us=found["latency_us"],
        trace_id=trace_of(found) if decided else None,
        reasons=tuple(map(str, payload.get("reasons") or ())),
        request=tuple(
            (f"{name} (pseudonym)" if name in pseudonyms else name, value)
            for name, value in _named_fields(payload.get("request"))
        ),
        features=_named_fields(payload.get("features")),
        feature_times=tuple(
            (view, ms)
            for view, ms in (payload.get("feature_times") or {}).items()
            if ms is not None
        ),
        feature_gaps=_gaps(payload.get("feature_gaps")),
        failures=tuple((str(arm), str(why)) for arm, why in payload.get("failures") or ()),
        payload=found["payload"],
    )


def _begins(held_to: RowThresholds, scale: DecisionScale | None) -> str:
    text = held_to.text(lambda begin: score_text(scale, begin).text)
    return text if held_to.segment is None else f"{text} in segment {held_to.segment}"


def _gaps(values: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(values, Mapping):
        return ()
    return tuple((cause, ", ".join(map(str, views))) for cause, views in values.items())


def _named_fields(values: Any) -> tuple[tuple[str, Any], ...]:
    """Fields by name, a vector by its length and norm: its numbers are in the record. A raw call's
    request is rows of numbers, which only the record shows."""
    if not isinstance(values, Mapping):
        return ()
    return tuple((name, _vector_text(value)) for name, value in values.items())


def _vector_text(value: Any) -> Any:
    is_vector = isinstance(value, list) and all(isinstance(n, int | float) for n in value)
    return vector_text(value) if is_vector else value


@dataclass(frozen=True, slots=True)
class ArmDecision:
    """The answer of one arm to a decision's request.

    Args:
        of: the arm that gave the answer, in words.
        begins: as in `RecordDetail`.
    """

    of: str
    version: int | None
    decision: str
    tone: str
    score: ScoreText
    begins: str
    latency_us: int | None
    degraded_reason: str | None


@dataclass(frozen=True, slots=True)
class LaterRecord:
    """A label, or a void, that came after a decision, in words."""

    event_ms: int
    text: str


@dataclass(frozen=True, slots=True)
class Age:
    """The age of a view's features when they were used, in words and as a bar from 0 to 100."""

    view: str
    hours: float
    width: float

    @property
    def text(self) -> str:
        return duration_text(max(self.hours, 0.0) * HOUR_S)


@dataclass(frozen=True, slots=True)
class DecisionDetail:
    """One decision with everything on record about it.

    Args:
        decided: the record of the decision; None if the log holds only other records of it.
        answers: the answer of the decision, then those of copies.
        history: labels and voids, oldest first.
        ages: ages of the decision's features, the oldest first.
    """

    records: tuple[RecordDetail, ...]
    decided: RecordDetail | None
    answers: tuple[ArmDecision, ...]
    history: tuple[LaterRecord, ...]
    ages: tuple[Age, ...]


def decision(records: Sequence[RecordDetail], label: str = "") -> DecisionDetail:
    """The details of one decision, from its records.

    Args:
        label: name of the model's label, the word for what it looks for; empty if no folder
            declares it.
    """
    decided = [r for r in records if r.kind in ANSWERED]
    copies = [r for r in records if r.kind == "shadow"]
    later = sorted((r for r in records if r.kind in _LATER), key=lambda r: r.event_ms)
    return DecisionDetail(
        records=tuple(records),
        decided=decided[0] if decided else None,
        answers=tuple(_answer(r) for r in (*decided, *copies)),
        history=tuple(LaterRecord(r.event_ms, _LATER[r.kind](r, label)) for r in later),
        ages=_ages(decided[0]) if decided else (),
    )


def _answer(found: RecordDetail) -> ArmDecision:
    arm = found.arm or "no arm"
    of = "challenger, a copy in shadow" if found.kind == "shadow" else arm
    if found.kind != "shadow" and found.answered_by not in (None, found.arm):
        of += f", answered by {(found.answered_by or '').replace('_', ' ')}"
    return ArmDecision(
        of=of,
        version=found.version,
        decision=found.decision or "no answer",
        tone=found.tone,
        score=found.score,
        begins=found.begins,
        latency_us=found.latency_us,
        degraded_reason=found.degraded_reason,
    )


def _label(found: RecordDetail, label: str) -> str:
    fields = dict(found.fields)
    value, named = fields.get("label"), fields.get("decision") or fields.get("score")
    stated = opinion(found.payload) if isinstance(found.payload, Mapping) else None
    by = "" if stated is None else f", says {stated.analyst}"
    note = f": {stated.note}" if stated is not None and stated.note else ""
    if value is not None:
        return f"label {value}: {_meant(value, label)}{by}{note}"
    if named is not None:
        return f"label {named}{by}{note}"
    if stated is None:
        return "a label without a value"
    return f"{_meant(stated.outcome, label)}{by}, no label yet{note}"


def _meant(outcome: int, label: str) -> str:
    if label:
        return outcome_text(outcome, label)
    return "what the model looks for" if outcome else "not what it looks for"


def _void(found: RecordDetail, _label: str) -> str:
    why = found.payload.get("reason") if isinstance(found.payload, Mapping) else None
    return f"taken back: {why}" if why else "taken back"


_LATER = {"label": _label, "void": _void}


def _ages(found: RecordDetail) -> tuple[Age, ...]:
    hours = {view: (found.event_ms - ms) / HOUR_MS for view, ms in found.feature_times}
    most = max([*hours.values(), 1e-9])
    ordered = sorted(hours, key=lambda view: -hours[view])
    return tuple(
        Age(v, hours[v], round(100 * min(max(hours[v], 0.0) / most, 1.0), 1)) for v in ordered
    )
