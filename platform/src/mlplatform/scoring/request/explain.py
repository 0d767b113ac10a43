"""A logged decision computed again: whether it follows from its record and its bundle, and what
drove it.

The log holds the request and the features as they were read, and names the bundle by its digest.
With these the gateway's own functions must give the same answer, also years later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mlplatform.decisions.records.rankings import LoggedPlace
from mlplatform.decisions.records.record import FEATURES, Record
from mlplatform.model.bundle import MODEL_FILE, Bundle, load_bundle
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.model.inputs import InputPlan, recorded_plan
from mlplatform.model.oip import reason_words
from mlplatform.model.policies.calibration import held_many
from mlplatform.model.policies.cut_offs import NO_THRESHOLDS, RowThresholds
from mlplatform.model.policies.decision_scale import Decision
from mlplatform.model.rules import Rule
from mlplatform.model.scorecard import SmallScorer
from mlplatform.model.weights.data_files import data_of
from mlplatform.runtime.errors import Corrupt, NotFound
from mlplatform.scoring.arms.reasons import (
    MOST,
    Contributions,
    Driver,
    NotExplained,
    drivers,
    ordinary_row,
    readable_inputs,
    tree_shap,
    vector_places,
    without_each,
)
from mlplatform.scoring.predictor.model import Score, scorer
from mlplatform.scoring.request.prediction import (
    DEFAULT_REASON,
    KILLED_REASON,
    STALE_REASON,
    rule_decision,
)

SCORE_TOLERANCE = 1e-6
NOT_EXPLORED: Mapping[str, str] = {
    "amount": "more than exploration.maximum_amount",
    "sum": "exploration.maximum_sum was reached",
    "twice_in_a_row": "the customer's last such request was let through",
}
Row = Sequence[float]


@dataclass(frozen=True, slots=True)
class Decider:
    """A bundle on disk, ready to decide again."""

    bundle: Bundle
    plan: InputPlan
    score: Score
    tree_shap: Contributions | None


DeciderOf = Callable[[str, str], Decider]
"""Function from a model and the digest of a bundle to its decider."""


class Outcome(msgspec.Struct, frozen=True):
    """A decision, with its score if a model was asked. `reasons` are the codes of an answer,
    strongest first; only alerts have any."""

    decision: str
    score: float | None = None
    raw: float | None = None
    reasons: tuple[str, ...] = ()


class InputCause(msgspec.Struct, frozen=True, tag="input", tag_field="by"):
    """An input that raised the score, with the score and decision if the input had been ordinary.

    `contribution` is to the margin by TreeSHAP, to the raw score by reference values. Missing
    values are None; of a category both are words; of a vector, length and norm.
    """

    code: str
    text: str
    input: str
    value: float | str | None
    ordinary: float | str | None
    contribution: float
    score_then: float
    decision_then: Decision


class RuleCause(msgspec.Struct, frozen=True, tag="rule", tag_field="by"):
    """A rule that decided, with the values that its conditions read; missing ones are None."""

    code: str
    text: str
    values: dict[str, float | None]


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """One record of a decision, beside what is computed from it again.

    `again` is None where nothing was decided: a shadow copy that failed. By TreeSHAP, `base` is the
    mean margin, and `rest` what the inputs that are no causes add; both with the causes make the
    margin. `contributions` are those of all inputs, in their order. `thresholds` says from which
    score on each outcome but the first is given, `segment` whose they are; None: the bundle's own.
    """

    kind: str
    decision_id: str
    model: str
    event_ms: int
    answered_by: str | None
    version: int | None
    bundle: str | None
    degraded_reason: str | None
    logged: Outcome | None
    again: Outcome | None
    method: str | None = None
    causes: tuple[InputCause | RuleCause, ...] = ()
    note: str | None = None
    differences: tuple[str, ...] = ()
    base: float | None = None
    rest: float | None = None
    segment: str | None = None
    thresholds: dict[str, float] | None = None
    contributions: tuple[InputCause, ...] = ()


class _Payload(msgspec.Struct, frozen=True):
    """The fields of the payloads of decisions and shadows that are read."""

    request: dict[str, Any] = {}
    features: dict[str, float | None] = {}
    raw: float | None = None
    reasons: tuple[str, ...] = ()
    reasons_omitted: str | None = None
    failures: tuple[tuple[str, str], ...] = ()
    propensity: float | None = None
    explored_instead_of: str | None = None
    not_explored: str | None = None
    ranking: LoggedPlace | None = None


@dataclass(frozen=True, slots=True)
class _ReExplanation:
    outcome: Outcome | None
    causes: tuple[InputCause | RuleCause, ...] = ()
    note: str | None = None
    method: str | None = None
    base: float | None = None
    rest: float | None = None
    held_to: RowThresholds = NO_THRESHOLDS
    contributions: tuple[InputCause, ...] = ()


def load_decider(bundles: Path, model: str, digest: str) -> Decider:
    """The bundle of that digest, every file of it checked.

    Raises:
        NotFound: there is no such bundle or model folder here.
        ConfigInvalid: the model folder no longer has a feature of the bundle.
        Corrupt: a file of the bundle does not match its digest.
    """
    folder = bundles / digest
    if not folder.is_dir():
        raise NotFound(f"bundle {digest} is not in {bundles}; the registry keeps every version")
    bundle = load_bundle(folder, digest)
    views = load_views(model_folder(model))
    return Decider(
        bundle,
        recorded_plan(load_definition(model), views, bundle),
        scorer(
            folder / MODEL_FILE,
            tensors=bundle.tensors,
            data=data_of(folder, bundle.files),
            classes=bundle.classes,
        ),
        tree_shap(bundle, folder),
    )


def explain_rows(rows: Sequence[Mapping[str, Any]], decider_of: DeciderOf) -> list[Explanation]:
    """The explanations of a decision's records, as the log returns them with parsed payloads.

    Raises as `explain_records`.
    """
    records = [msgspec.convert({**row, "payload": row["payload"] or {}}, Record) for row in rows]
    return explain_records(records, decider_of)


def explain_records(records: Sequence[Record], decider_of: DeciderOf) -> list[Explanation]:
    """The decision among the records of one decision id, then its shadow if there is one.

    Raises:
        NotFound: there is no decision among the records, or its payload was removed.
        Corrupt: the payload is not that of a decision.
    """
    decision = next((r for r in records if r.kind == "decision"), None)
    if decision is None:
        raise NotFound("there is no decision among these records")
    payload = _payload(decision)
    return [
        _explanation(record, payload, decider_of)
        for record in records
        if record.kind in ("decision", "shadow")
    ]


def _explanation(record: Record, payload: _Payload, decider_of: DeciderOf) -> Explanation:
    own = _payload(record)
    again = _again(record, payload, decider_of)
    notes = again.note or _failures(own), _drawn(own), own.ranking.sentence if own.ranking else None
    logged = None
    if record.decision is not None:
        logged = Outcome(record.decision, record.score, own.raw, own.reasons)
    return Explanation(
        kind=record.kind,
        decision_id=record.decision_id,
        model=record.model,
        event_ms=record.event_ms,
        answered_by=record.answered_by,
        version=record.version,
        bundle=record.bundle,
        degraded_reason=record.degraded_reason,
        logged=logged,
        again=again.outcome,
        method=again.method,
        causes=again.causes,
        base=again.base,
        rest=again.rest,
        segment=again.held_to.segment,
        thresholds=again.held_to.begins or None,
        contributions=again.contributions,
        note="; ".join(filter(None, notes)) or None,
        differences=_differences(
            _before_draw(own, logged),
            again.outcome,
            has_reasons=record.kind == "decision"
            and own.reasons_omitted is None
            and not _lost_reasons(record, own, decider_of),
        ),
    )


def _lost_reasons(record: Record, own: _Payload, decider_of: DeciderOf) -> bool:
    """Whether the exploration slice replaced a decision with reasons by one without."""
    if own.explored_instead_of is None or record.bundle is None:
        return False
    alerts = decider_of(record.model, record.bundle).bundle.decider.alerts
    return record.decision not in alerts


def _before_draw(own: _Payload, logged: Outcome | None) -> Outcome | None:
    """The model's decision, if the exploration slice has put another in its place; else the logged
    one."""
    if logged is None or own.explored_instead_of is None:
        return logged
    return msgspec.structs.replace(logged, decision=own.explored_instead_of)


def _drawn(own: _Payload) -> str | None:
    """The action of the exploration slice, in words; None if there was no draw."""
    if own.propensity is None:
        return None
    if own.explored_instead_of is not None:
        return (
            f"the model decided {own.explored_instead_of}; let through by the exploration slice "
            f"(chance {own.propensity:g})"
        )
    if own.not_explored is not None:
        why = NOT_EXPLORED.get(own.not_explored, own.not_explored)
        return f"not to be let through by the exploration slice: {why}"
    return f"could have been let through by the exploration slice (chance {own.propensity:g})"


def _again(record: Record, payload: _Payload, decider_of: DeciderOf) -> _ReExplanation:
    why = record.degraded_reason or ""
    if record.decision is None:
        return _ReExplanation(None, note=f"nothing was decided: {reason_words(why)}")
    if record.answered_by == "default":
        reason = {FEATURES: STALE_REASON, "killed": KILLED_REASON}.get(why, DEFAULT_REASON)
        outcome = Outcome(_safe(record.model), reasons=(reason.code,))
        absent = "features were out of date" if why == FEATURES else "no model answered"
        tried = _failures(payload) or absent
        return _ReExplanation(outcome, note=f"{tried}; the rules abstained: the safe default holds")
    if record.bundle is None:
        raise Corrupt(f"decision {record.decision_id} names no bundle")
    decider = decider_of(record.model, record.bundle)
    row = decider.plan.row(payload.request, record.event_ms, payload.features)
    if record.answered_by == "rules":
        return _by_rules(decider.bundle, row, _safe(record.model))
    if record.answered_by == "small_model":
        return _by_small_model(decider.bundle, row)
    return _by_model(decider, row)


def _safe(model: str) -> Decision:
    return load_definition(model).decision.safe


def _by_model(decider: Decider, row: Row) -> _ReExplanation:
    bundle = decider.bundle
    if bundle.classes:
        return _by_class(decider, row)
    (raw,) = _scores(decider, [row])
    others = _without_each(bundle, row)
    raw_without = _scores(decider, others)
    score = bundle.calibrate(raw)
    decision, held_to = bundle.decide(score, row), bundle.row_thresholds(row)
    try:
        contributions = _contributions(decider, row, raw, raw_without)
        found = drivers(bundle, contributions)
    except NotExplained as failure:
        outcome, note = Outcome(decision, score, raw), f"no reasons: {failure.reason}"
        return _ReExplanation(outcome, note=note, method=bundle.attribution.method, held_to=held_to)
    scores_then = [bundle.calibrate(other) for other in raw_without]
    pairs = zip(others, scores_then, strict=True)
    then = [(score_then, bundle.decide(score_then, row_then)) for row_then, score_then in pairs]
    every = _input_causes(bundle, row, contributions, then)
    causes = _raising(found, every)
    is_alert = decision in bundle.cut_offs.alerts
    codes = tuple(driver.reason.code for driver in found) if is_alert else ()
    outcome = Outcome(decision, score, raw, codes)
    base = rest = None
    if decider.tree_shap is not None:
        base = bundle.attribution.base
        rest = math.fsum([*contributions, *(-cause.contribution for cause in causes)])
    return _ReExplanation(
        outcome,
        causes,
        method=bundle.attribution.method,
        base=base,
        rest=rest,
        held_to=held_to,
        contributions=tuple(every.values()),
    )


def _by_class(decider: Decider, row: Row) -> _ReExplanation:
    """The most probable class, and its probability with each input at its usual value."""
    bundle = decider.bundle
    rows = [row, *_without_each(bundle, row)]
    found = decider.score(np.array(rows, np.float32)).astype(np.float64)
    if not np.isfinite(found).all():
        raise Corrupt(f"the model of bundle {bundle.digest} gives a value that is not a number")
    found, method = held_many(found), bundle.attribution.method
    place = bundle.choice.place(found[0].tolist())
    raw, others = float(found[0, place]), found[1:, place].tolist()
    decision = bundle.scale.names[place]
    contributions = [raw - other for other in others]
    drove = drivers(bundle, contributions)
    outcomes = [bundle.choice.outcome(one.tolist()) for one in found[1:]]
    every = _input_causes(bundle, row, contributions, [*zip(others, outcomes, strict=True)])
    is_alert = decision in bundle.choice.alerts
    codes = tuple(driver.reason.code for driver in drove) if is_alert else ()
    return _ReExplanation(
        Outcome(decision, raw, raw, codes),
        _raising(drove, every),
        method=method,
        contributions=tuple(every.values()),
    )


def _contributions(
    decider: Decider, row: Row, raw: float, raw_without: Sequence[float]
) -> list[float]:
    if decider.tree_shap is not None:
        return decider.tree_shap(row, raw)
    return [raw - other for other in raw_without]


def _input_causes(
    bundle: Bundle,
    row: Row,
    contributions: Sequence[float],
    then: Sequence[tuple[float, Decision]],
) -> dict[str, InputCause]:
    """Input, or the first number of a vector → its part in the score.

    Args:
        then: score and decision with each input at its usual value.
    """
    shown = readable_inputs(bundle, row)
    return {
        name: InputCause(
            code=one.reason.code,
            text=one.reason.analyst,
            input=one.name,
            value=one.value,
            ordinary=one.ordinary,
            contribution=contribution,
            score_then=score_then,
            decision_then=decision_then,
        )
        for (name, one), contribution, (score_then, decision_then) in zip(
            shown.items(), contributions, then, strict=True
        )
    }


def _raising(found: Sequence[Driver], every: Mapping[str, InputCause]) -> tuple[InputCause, ...]:
    return tuple(every[name] for driver in found for name in driver.inputs)


def _by_small_model(bundle: Bundle, row: Row) -> _ReExplanation:
    small = SmallScorer.of(bundle)
    if small is None:
        raise Corrupt(f"bundle {bundle.digest} has no small model")
    raw = small.raw(row)
    score, decision = small.decide(raw, row)
    codes: tuple[str, ...] = ()
    if decision in bundle.cut_offs.alerts:
        codes = tuple(bundle.reasons[name].code for name in small.strongest(row, MOST))
    outcome, note = Outcome(decision, score, raw, codes), "decided by the small model"
    held_to = bundle.row_thresholds(row, small.model)
    return _ReExplanation(outcome, note=note, held_to=held_to)


def _by_rules(bundle: Bundle, row: Row, safe: Decision) -> _ReExplanation:
    decided = rule_decision(bundle, row)
    if decided is None:
        outcome = Outcome(safe, reasons=(DEFAULT_REASON.code,))
        return _ReExplanation(outcome, note="the rules abstain")
    decision, reasons = decided
    rules = {rule.code: rule for rule in bundle.rules}
    inputs = dict(zip(bundle.input_names, row, strict=True))
    causes = tuple(_rule_cause(rules[reason.code], inputs) for reason in reasons)
    is_alert = decision in bundle.decider.alerts
    codes = tuple(reason.code for reason in reasons) if is_alert else ()
    return _ReExplanation(Outcome(decision, reasons=codes), causes)


def _rule_cause(rule: Rule, inputs: dict[str, float]) -> RuleCause:
    values = {condition.input: _present(inputs[condition.input]) for condition in rule.when}
    return RuleCause(rule.code, rule.text, values)


def _scores(decider: Decider, rows: Sequence[Row]) -> list[float]:
    scores: list[float] = decider.score(np.array(rows, np.float32)).tolist()
    if not all(map(math.isfinite, scores)):
        raise Corrupt(f"the model of bundle {decider.bundle.digest} gives {scores}")
    return scores


def _differences(
    logged: Outcome | None, again: Outcome | None, *, has_reasons: bool
) -> tuple[str, ...]:
    if logged is None or again is None:
        return ()
    pairs = {"decision": (logged.decision, again.decision)}
    if not _close(logged.score, again.score):
        pairs["score"] = (str(logged.score), str(again.score))
    if has_reasons:
        pairs["reasons"] = (", ".join(logged.reasons), ", ".join(again.reasons))
    return tuple(
        f"{name}: {one or 'none'} in the log, {other or 'none'} computed again"
        for name, (one, other) in pairs.items()
        if one != other
    )


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= SCORE_TOLERANCE


def _failures(payload: _Payload) -> str | None:
    return "; ".join(f"{step}: {reason}" for step, reason in payload.failures) or None


def _present(value: float) -> float | None:
    return None if math.isnan(value) else value


def _without_each(bundle: Bundle, row: Row) -> list[list[float]]:
    return without_each(row, ordinary_row(bundle), vector_places(bundle))


def _payload(record: Record) -> _Payload:
    if not record.payload:
        gone = "was erased, or is older than its model keeps payloads"
        raise NotFound(f"the payload of {record.kind} {record.decision_id} {gone}")
    try:
        return msgspec.convert(record.payload, _Payload)
    except msgspec.ValidationError as error:
        raise Corrupt(f"{record.kind} {record.decision_id}: payload: {error}") from error
