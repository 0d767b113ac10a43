"""A score from the first predictor that gives one in time, and the decision if none does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mlplatform.learning.features.online import OnlineRow
from mlplatform.model.bundle import Bundle
from mlplatform.model.oip import FailureReason, PredictionFailed, Scores
from mlplatform.model.policies.classes import ClassChoice, ClassProbability
from mlplatform.model.policies.decision_scale import Decision
from mlplatform.model.rules import evaluate
from mlplatform.model.scorecard import SmallScorer
from mlplatform.runtime.telemetry.context import Origin
from mlplatform.scoring.arms.exploration import Draw, Exploration
from mlplatform.scoring.arms.fallback import FallbackStep, ModelStep, step_until
from mlplatform.scoring.arms.live import Live, Target
from mlplatform.scoring.arms.reasons import MOST, NotExplained, drivers, without_each
from mlplatform.scoring.predictor_client.cache import Raw
from mlplatform.scoring.request.answers import AnsweredBy, ReasonInfo

DEFAULT_REASON = ReasonInfo("NO_MODEL", "No model could be asked in time.")
STALE_REASON = ReasonInfo("NO_FEATURES", "What a model needs to know is out of date.")
KILLED_REASON = ReasonInfo("MODEL_OFF", "The model is switched off.")
MINIMUM_BUDGET_S = 0.001


class RequestFacts(msgspec.Struct, frozen=True):
    """The facts of one request.

    Args:
        fields: the request's fields, pseudonymised.
        features: the features that the online store returned.
    """

    fields: Mapping[str, Any]
    event_ms: int
    features: OnlineRow

    def row(self, target: Target) -> list[float]:
        return target.plan.row(self.fields, self.event_ms, self.features.values)


class RawFacts(RequestFacts, frozen=True):
    """Inputs that the caller made, in the champion's order."""

    inputs: tuple[float, ...] = ()

    def row(self, target: Target) -> list[float]:
        return list(self.inputs)


class Prediction(msgspec.Struct, frozen=True):
    """The raw score of the step that answered, or its probabilities of all classes; `cached` if it
    comes from an equal row.

    Args:
        asked_s, answered_s: start and end of the call, on the monotonic clock.
        timing: the predictor's report of its own time (Server-Timing).
    """

    step: ModelStep
    target: Target
    row: Sequence[float]
    raw: Raw
    cached: bool = False
    asked_s: float = 0.0
    answered_s: float = 0.0
    timing: bytes = b""


class Failure(msgspec.Struct, frozen=True):
    """A step that gave no score: why, and from when to when it was tried; times are 0 if it was not
    asked."""

    step: ModelStep
    reason: FailureReason
    asked_s: float = 0.0
    failed_s: float = 0.0


class Verdict(msgspec.Struct, frozen=True):
    """A decision, who made it and why.

    Args:
        target: the arm whose bundle decided; None for the safe default.
        omitted: why reasons are missing; None if none are.
        cached: whether the score is that of an equal row a moment ago.
        top: the most probable classes; empty for other models.
    """

    decision: Decision
    answered_by: AnsweredBy
    target: Target | None
    raw: float | None = None
    score: float | None = None
    reasons: tuple[ReasonInfo, ...] = ()
    omitted: str | None = None
    cached: bool = False
    top: tuple[ClassProbability, ...] = ()


async def predict(
    live: Live,
    order: Sequence[FallbackStep],
    facts: RequestFacts,
    until_s: float,
    origin: Origin | None = None,
) -> tuple[Prediction | None, list[Failure]]:
    """The score of the first step that gives one, and the failures of those before it."""
    if not live.bulkhead.enter():
        return None, [Failure(order[0].name, "bulkhead")]
    try:
        return await _ask(live, order, facts, until_s, origin)
    finally:
        live.bulkhead.leave()


async def _ask(
    live: Live,
    order: Sequence[FallbackStep],
    facts: RequestFacts,
    until_s: float,
    origin: Origin | None,
) -> tuple[Prediction | None, list[Failure]]:
    clock = time.monotonic
    failures: list[Failure] = []
    for position, step in enumerate(order):
        target = live.targets[step.arm.service]
        now_s = clock()
        if until_s - now_s < MINIMUM_BUDGET_S:
            # The time was used up before any predictor was asked: this gateway was slow.
            failures.append(Failure(step.name, "deadline" if failures else "stalled"))
            break
        if target.stopped is not None:
            failures.append(Failure(step.name, "volume_limit"))
            continue
        row = facts.row(target)
        cache = target.cache if live.caching else None
        key = cache.key(row) if cache is not None else b""
        kept = cache.score(key, now_s) if cache is not None else None
        if kept is not None:
            return Prediction(step.name, target, row, kept, cached=True), failures
        if not target.breaker.allows(now_s):
            failures.append(Failure(step.name, "breaker_open"))
            continue
        slice_until_s = step_until(live.chain, now_s, until_s, len(order) - position)
        if origin is not None and origin.step != step.name:
            origin = Origin(origin.decision_id, origin.trace, step.name)
        outcome = await scores_of(target, (row,), now_s, slice_until_s, origin)
        if isinstance(outcome, Scores):
            raw = outcome[0] if len(outcome) == 1 else tuple(outcome)
            if cache is not None:
                cache.keep(key, raw, now_s)
            found = Prediction(step.name, target, row, raw, False, now_s, clock(), outcome.timing)
            return found, failures
        failures.append(Failure(step.name, outcome, now_s, clock()))
    return None, failures


async def scores_of(
    target: Target,
    rows: Sequence[Sequence[float]],
    asked_s: float,
    until_s: float,
    origin: Origin | None,
) -> Scores | FailureReason:
    """The scores of rows, or why there are none. The breaker counts either, once for each call."""
    breaker = target.breaker
    try:
        found = await target.predictor.predict(rows, until_s, origin)
    except PredictionFailed as failure:
        if failure.speaks:
            breaker.record_failure(asked_s, time.monotonic())
        else:
            breaker.withdrawn(asked_s)
        return failure.reason
    except asyncio.CancelledError:
        breaker.withdrawn(asked_s)
        raise
    if found.speaks:
        breaker.record_answer(asked_s, time.monotonic(), until_s - asked_s)
    else:
        breaker.withdrawn(asked_s)
    return found


async def decide(prediction: Prediction, until_s: float) -> Verdict:
    """The decision for a score; an alert comes with reasons if the time allows."""
    target, raw = prediction.target, prediction.raw
    cut_offs = target.cut_offs
    if isinstance(cut_offs, ClassChoice) or isinstance(raw, tuple):
        return await _decide_class(prediction, target.bundle.choice, until_s)
    score = target.bundle.calibrate(raw)
    decision = cut_offs.outcome(score, prediction.row)
    reasons: tuple[ReasonInfo, ...] = ()
    omitted: str | None = None
    if decision in cut_offs.alerts:
        reasons, omitted = await _reasons(prediction, until_s)
    return Verdict(
        decision,
        prediction.step,
        target,
        raw,
        score,
        reasons,
        omitted,
        prediction.cached,
    )


async def _decide_class(prediction: Prediction, choice: ClassChoice, until_s: float) -> Verdict:
    """The most probable class, whose probability is the score."""
    target, raw = prediction.target, prediction.raw
    probabilities = raw if isinstance(raw, tuple) else (raw,)
    top = choice.top(probabilities, max(1, target.top))
    decision, score = top[0].class_, top[0].probability
    reasons: tuple[ReasonInfo, ...] = ()
    omitted: str | None = None
    if decision in choice.alerts:
        reasons, omitted = await _reasons(prediction, until_s)
    step, cached = prediction.step, prediction.cached
    return Verdict(decision, step, target, score, score, reasons, omitted, cached, top)


def explore(
    exploration: Exploration, verdict: Verdict, facts: RequestFacts, unit: int
) -> tuple[Verdict, Draw | None]:
    """A model's decision, or the one that replaces it for the exploration slice.

    Call it only for a model's decision, made with fresh features by the arm that was due. Decisions
    of rules, of the small model or of the safe default are never explored, nor those on inputs that
    a caller made.
    """
    if isinstance(facts, RawFacts):
        return verdict, None
    draw = exploration.draw(verdict.decision, unit, facts.fields, facts.event_ms)
    if draw is None or not draw.explored:
        return verdict, draw
    target = verdict.target
    if target is not None and exploration.decision not in target.cut_offs.alerts:
        verdict = msgspec.structs.replace(verdict, reasons=(), omitted=None)
    return msgspec.structs.replace(verdict, decision=exploration.decision), draw


def without_predictor(live: Live, facts: RequestFacts, why: ReasonInfo = DEFAULT_REASON) -> Verdict:
    """The decision of the champion's bundle without its predictor: by its small model; by its rules
    if the small model knows too little or is missing; or the safe default if the rules abstain.

    Args:
        why: the reason to give with the safe default.
    """
    champion = live.champion
    if champion is None:
        return Verdict(live.safe, "default", None, reasons=(why,))
    found = without_model(champion.bundle, champion.small, facts.row(champion), live.safe, why)
    if found.answered_by == "default":
        return found
    return msgspec.structs.replace(found, target=champion)


def without_model(
    bundle: Bundle, small: SmallScorer | None, row: Sequence[float], safe: str, why: ReasonInfo
) -> Verdict:
    """The decision of a bundle about a row without its model: its small model, its rules, or the
    default.

    Args:
        small: the bundle's small model; None if it has none.
        safe, why: decision and reason of the safe default.
    """
    if small is not None and small.knows(row):
        return _by_small_model(bundle, small, row)
    decided = rule_decision(bundle, row)
    if decided is None:
        return Verdict(safe, "default", None, reasons=(why,))
    decision, reasons = decided
    is_alert = decision in bundle.scale.alerts
    return Verdict(decision, "rules", None, reasons=reasons if is_alert else ())


def rule_decision(
    bundle: Bundle, row: Sequence[float]
) -> tuple[Decision, tuple[ReasonInfo, ...]] | None:
    """The decision of the bundle's rules about a row of its inputs, and why; None if they
    abstain."""
    inputs = dict(zip(bundle.input_names, row, strict=True))
    outcome = evaluate(bundle.rules, inputs, bundle.scale)
    if outcome is None:
        return None
    texts = {rule.code: rule.text for rule in bundle.rules}
    return outcome.decision, tuple(ReasonInfo(c, texts[c]) for c in outcome.codes[:MOST])


def _by_small_model(bundle: Bundle, small: SmallScorer, row: Sequence[float]) -> Verdict:
    raw = small.raw(row)
    score, decision = small.decide(raw, row)
    reasons: tuple[ReasonInfo, ...] = ()
    if decision in bundle.scale.alerts:
        named = (bundle.reasons[name] for name in small.strongest(row, MOST))
        reasons = tuple(ReasonInfo(reason.code, reason.customer) for reason in named)
    return Verdict(decision, "small_model", None, raw, score, reasons)


async def _reasons(
    prediction: Prediction, until_s: float
) -> tuple[tuple[ReasonInfo, ...], str | None]:
    target = prediction.target
    if until_s - time.monotonic() < MINIMUM_BUDGET_S:
        return (), "deadline"
    try:
        contributions = await _contributions(prediction, until_s)
    except (PredictionFailed, NotExplained) as failure:
        return (), failure.reason
    found = (driver.reason for driver in drivers(target.bundle, contributions))
    return tuple(ReasonInfo(reason.code, reason.customer) for reason in found), None


async def _contributions(prediction: Prediction, until_s: float) -> list[float]:
    target, raw = prediction.target, prediction.raw
    if target.explainer is not None and not isinstance(raw, tuple):
        return await target.explainer.explain(prediction.row, raw, until_s)
    rows = without_each(prediction.row, target.reference, target.vectors)
    if isinstance(raw, tuple):  # of the class that was decided
        place = target.bundle.choice.place(raw)
        others = (await target.predictor.predict(rows, until_s))[place :: len(raw)]
        return [raw[place] - other for other in others]
    return [raw - other for other in await target.predictor.predict(rows, until_s)]
