"""A request from routed to decided, and the contents of its answer and its record.

Values that are made for every request are of type msgspec.Struct: a frozen dataclass of six fields
takes 0.7 us to make, such a Struct 0.1 us.
"""

from __future__ import annotations

import time
from typing import Any, Final, NamedTuple

import msgspec

from mlplatform.decisions.records.record import FEATURES, VARIANT, Record
from mlplatform.learning.features.policy import Gaps
from mlplatform.model.policies.decision_scale import Decision
from mlplatform.model.routes import Arm
from mlplatform.runtime.telemetry.context import (
    ACCEPTED,
    TraceContext,
    derived_span_id,
    trace_id_of,
)
from mlplatform.scoring.arms.exploration import Draw
from mlplatform.scoring.arms.live import Live
from mlplatform.scoring.arms.named_versions import not_answered
from mlplatform.scoring.arms.routing import Assignment
from mlplatform.scoring.request.answers import ScoreBody
from mlplatform.scoring.request.prediction import (
    Failure,
    Prediction,
    RawFacts,
    RequestFacts,
    Verdict,
)

UNLOGGED: Final = "unlogged"


class Caller(msgspec.Struct, frozen=True):
    """The caller, and the terms of its request.

    Args:
        started_s: when the request arrived, on the monotonic clock.
        deadline_s: when it must be decided, on the same clock.
        trace: the caller's trace, with this gateway's span.
        finished: list that receives the decisions for their timings; None if nobody needs them.
        was_accepted: whether a gateway accepted the request earlier.
        version: the version that must answer; None: the routes decide.
    """

    client: str
    started_s: float
    deadline_s: float
    key: str | None = None
    trace_id: str | None = None
    finished: list[RequestOutcome] | None = None
    trace: TraceContext | None = None
    was_accepted: bool = False
    version: str | None = None


class RoutedRequest(msgspec.Struct, frozen=True):
    """A request with everything that a decision needs.

    Args:
        live: the routes that apply to it from start to end.
        unit: the assignment unit as a number.
        gaps: the missing features, and what their policies say.
        is_raw: whether the caller sent the inputs; then there is no request to train on.
        has_unit: whether the caller named the unit; if not, no rollout counts the record.
        read_s: when the read of the features began and ended, on the monotonic clock; None if none
            were read.
    """

    decision_id: str
    live: Live
    facts: RequestFacts
    unit: int
    assignment: Assignment
    gaps: Gaps
    is_raw: bool = False
    has_unit: bool = True
    read_s: tuple[float, float] | None = None


class DecidedRequest(msgspec.Struct, frozen=True):
    """A routed request with its decision, and the predictors that failed on the way, in order.

    Args:
        prediction: the score that decided; None if no score did.
        decided_s: when it was decided, on the monotonic clock.
        draw: the draw of exploration, if the model's decision hides the outcome; None without one.
            `verdict` is the decision after it.
    """

    routed: RoutedRequest
    verdict: Verdict
    failures: tuple[Failure, ...]
    prediction: Prediction | None = None
    decided_s: float = 0.0
    draw: Draw | None = None

    @property
    def by_model(self) -> Decision:
        """The decision before any draw."""
        return self.draw.decided if self.draw else self.verdict.decision

    @property
    def arm(self) -> Arm | None:
        """The arm whose bundle decided; None for the safe default."""
        return self.verdict.target.arm if self.verdict.target else None

    @property
    def degraded_reason(self) -> str | None:
        """Why the answer is degraded: the failure of the assigned arm, which was asked first, or
        what else was missing; None if it is not."""
        if self.failures:
            return self.failures[0].reason
        return FEATURES if self.routed.gaps.degraded else None


class FinishedDecision(NamedTuple):
    """A decision, with the times from its start until it was on record, on the monotonic clock.

    Args:
        is_recorded: whether it was recorded; if not, its caller was refused.
        accepted: trace and span of the earlier acceptance of the request; None without one.
    """

    decided: DecidedRequest
    started_s: float
    recorded_s: float
    is_recorded: bool = True
    accepted: tuple[str, str] | None = None


class AcceptedForLater(NamedTuple):
    """A request that is on record, to be decided later."""

    decision_id: str
    model: str
    started_s: float
    recorded_s: float


RequestOutcome = FinishedDecision | AcceptedForLater
"""The outcome of a request."""


def check_named(decided: DecidedRequest, caller: Caller) -> None:
    """Raises Problem: 503 if the request names a version, and that one did not answer."""
    if caller.version is not None and decided.prediction is None:
        note(decided, caller, time.monotonic(), is_recorded=False)
        raise not_answered(caller.version, decided.degraded_reason)


def note(
    decided: DecidedRequest, caller: Caller, now_s: float, *, is_recorded: bool = True
) -> None:
    """Note a decision for the spans of the request, if it gets any."""
    if caller.finished is None:
        return
    accepted = None
    if caller.was_accepted:
        decision_id = decided.routed.decision_id
        trace_id = caller.trace_id or trace_id_of(decision_id)
        accepted = trace_id, derived_span_id(decision_id, ACCEPTED)
    finished = FinishedDecision(decided, caller.started_s, now_s, is_recorded, accepted)
    caller.finished.append(finished)


def score_body(decided: DecidedRequest) -> ScoreBody:
    """The body of the application's answer."""
    routed, verdict, arm = decided.routed, decided.verdict, decided.arm
    return ScoreBody(
        decision=verdict.decision,
        score=verdict.score,
        reasons=list(verdict.reasons),
        model_version=arm.version if arm else None,
        bundle=arm.bundle if arm else None,
        route=routed.assignment.arm,
        answered_by=verdict.answered_by,
        generation=routed.live.routes.generation,
        decision_id=routed.decision_id,
        degraded=decided.degraded_reason is not None,
        degraded_reason=decided.degraded_reason,
        reasons_omitted=verdict.omitted,
        feature_gaps=routed.gaps.by_cause,
        top=list(verdict.top) or msgspec.UNSET,
    )


def unlogged_answer(decided: DecidedRequest) -> ScoreBody:
    """The body of the answer for a decision without a record: a degraded answer."""
    reason = decided.degraded_reason or UNLOGGED
    return msgspec.structs.replace(score_body(decided), degraded=True, degraded_reason=reason)


def record(decided: DecidedRequest, caller: Caller, *, recorded_ms: int, latency_us: int) -> Record:
    """The record of a decision for the decision log.

    Args:
        latency_us: microseconds from the request's arrival to its decision, without writing the
            record.
    """
    routed, verdict, arm = decided.routed, decided.verdict, decided.arm
    return Record(
        kind="inference" if routed.is_raw else "decision",
        decision_id=routed.decision_id,
        model=routed.live.routes.model,
        event_ms=routed.facts.event_ms,
        recorded_ms=recorded_ms,
        generation=routed.live.routes.generation,
        rollout_id=routed.live.routes.rollout_id,
        arm=routed.assignment.arm,
        answered_by=verdict.answered_by,
        unit=routed.unit if routed.has_unit else None,
        bucket=routed.assignment.bucket if routed.has_unit else None,
        version=arm.version if arm else None,
        bundle=arm.bundle if arm else None,
        score=verdict.score,
        decision=verdict.decision,
        degraded=decided.degraded_reason is not None,
        degraded_reason=decided.degraded_reason,
        latency_us=latency_us,
        payload=_payload(decided, caller),
    )


def _attribution(verdict: Verdict) -> str | None:
    """How the reasons were found; None if no model's score has any."""
    if verdict.target is None or verdict.score is None or not verdict.reasons:
        return None
    return verdict.target.bundle.attribution.method


def _payload(decided: DecidedRequest, caller: Caller) -> dict[str, Any]:
    facts, verdict, assigned = decided.routed.facts, decided.verdict, decided.routed.assignment
    payload: dict[str, Any] = {
        "request": facts.fields,
        "features": facts.features.values,
        "feature_times": facts.features.times,
        "raw": verdict.raw,
        "reasons": [reason.code for reason in verdict.reasons],
        "client": caller.client,
    }
    if isinstance(facts, RawFacts):
        payload["inputs"] = facts.inputs
    optional: dict[str, Any] = {
        "reasons_omitted": verdict.omitted,
        "attribution": _attribution(verdict),
        "cached": verdict.cached or None,
        "missing_features": decided.routed.gaps.features or None,
        "feature_gaps": decided.routed.gaps.by_cause,
        "failures": [[f.step, f.reason] for f in decided.failures] or None,
        "idempotency_key": caller.key,
        "trace_id": caller.trace_id,
        "windows_at": facts.features.position,
        "top": [[one.class_, one.probability] for one in verdict.top] or None,
        "variant": assigned.target.version if assigned.arm == VARIANT else None,
    }
    if (draw := decided.draw) is not None:
        optional |= {
            "propensity": draw.propensity,
            "explored": draw.explored or None,
            "explored_instead_of": draw.decided if draw.explored else None,
            "not_explored": draw.excluded,
        }
    payload.update((name, value) for name, value in optional.items() if value is not None)
    return payload
