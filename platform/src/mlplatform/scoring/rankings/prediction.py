"""Scores of all items of a request by one version, and the decision about each."""

from __future__ import annotations

import time
from collections.abc import Sequence

from mlplatform.model.oip import Scores
from mlplatform.model.policies.classes import ClassChoice
from mlplatform.runtime.telemetry.context import Origin
from mlplatform.scoring.arms.fallback import FallbackStep, step_until
from mlplatform.scoring.arms.live import Live
from mlplatform.scoring.rankings.answers import BEYOND_TOP
from mlplatform.scoring.request.prediction import (
    MINIMUM_BUDGET_S,
    Failure,
    Prediction,
    RequestFacts,
    Verdict,
    decide,
    scores_of,
)


async def predict_all(
    live: Live,
    order: Sequence[FallbackStep],
    items: Sequence[RequestFacts],
    until_s: float,
    origin: Origin | None = None,
) -> tuple[list[Prediction], list[Failure]]:
    """The scores of the first step that gives one for every item, none if no step does; and the
    failures of those before it. All items are one call of a predictor."""
    if not live.bulkhead.enter():
        return [], [Failure(order[0].name, "bulkhead")]
    try:
        return await _ask(live, order, items, until_s, origin)
    finally:
        live.bulkhead.leave()


async def _ask(
    live: Live,
    order: Sequence[FallbackStep],
    items: Sequence[RequestFacts],
    until_s: float,
    origin: Origin | None,
) -> tuple[list[Prediction], list[Failure]]:
    clock, failures = time.monotonic, list[Failure]()
    for position, step in enumerate(order):
        target, now_s = live.targets[step.arm.service], clock()
        if until_s - now_s < MINIMUM_BUDGET_S:
            failures.append(Failure(step.name, "deadline" if failures else "stalled"))
            break
        if target.stopped is not None:
            failures.append(Failure(step.name, "volume_limit"))
            continue
        rows = [facts.row(target) for facts in items]
        if not target.breaker.allows(now_s):
            failures.append(Failure(step.name, "breaker_open"))
            continue
        slice_until_s = step_until(live.chain, now_s, until_s, len(order) - position)
        if origin is not None and origin.step != step.name:
            origin = Origin(origin.decision_id, origin.trace, step.name)
        outcome = await scores_of(target, rows, now_s, slice_until_s, origin)
        if isinstance(outcome, Scores):
            answered_s, timing = clock(), outcome.timing
            return [
                Prediction(step.name, target, row, raw, False, now_s, answered_s, timing)
                for row, raw in zip(rows, outcome, strict=True)
            ], failures
        failures.append(Failure(step.name, outcome, now_s, clock()))
    return [], failures


async def decide_item(prediction: Prediction, until_s: float, *, is_shown: bool) -> Verdict:
    """The decision about an item; only one that is shown gets reasons."""
    target, raw = prediction.target, prediction.raw
    cut_offs = target.cut_offs
    if is_shown or isinstance(cut_offs, ClassChoice) or isinstance(raw, tuple):
        return await decide(prediction, until_s)
    score = target.bundle.calibrate(raw)
    decision = cut_offs.outcome(score, prediction.row)
    omitted = BEYOND_TOP if decision in cut_offs.alerts else None
    return Verdict(decision, prediction.step, target, raw, score, (), omitted)
