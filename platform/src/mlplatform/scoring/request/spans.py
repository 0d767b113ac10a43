"""Spans of requests, and the choice of requests that get them, made when they are over.

A request without spans leaves only a few clock readings.
"""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, Protocol

import msgspec

from mlplatform.decisions.topics.messages import requests_topic
from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.telemetry.context import (
    ACCEPTED,
    TraceContext,
    derived_span_id,
    step_place,
    trace_id_of,
)
from mlplatform.runtime.telemetry.signals import Attribute
from mlplatform.runtime.telemetry.spans import (
    Attributes,
    Link,
    ProcessIdentity,
    Span,
    Trace,
    new_span_id,
)
from mlplatform.scoring.request.decision import AcceptedForLater, FinishedDecision, RequestOutcome
from mlplatform.scoring.request.prediction import Prediction

SamplingReason = Literal["error", "slow", "degraded", "canary", "caller", "share"]
SPARE: Final = ("slow", "caller", "share")
"""Reasons whose traces are dropped first: in an overload every request is slow, and the others must
not be lost among them."""
MAX_DECISIONS: Final = 20
"""Most decisions of a batch with spans, those with a fault first: what is wrong with one is mostly
wrong with all."""

_TIMINGS: Final = {b"queue": signals.QUEUE_MS, b"compute": signals.COMPUTE_MS}


class AnsweredRequest(msgspec.Struct, frozen=True):
    """A request that was answered.

    Args:
        operation: name of the operation, as in the metrics.
        attributes: attributes of the request itself.
        done: the decisions that were made for it, if any.
    """

    operation: str
    attributes: Attributes
    trace: TraceContext | None
    started_s: float
    ended_s: float
    is_error: bool
    done: Sequence[RequestOutcome]
    sampled_for: SamplingReason

    @property
    def trace_id(self) -> str | None:
        """The caller's trace, or that of the first decision; None if there is neither."""
        if self.trace is not None:
            return self.trace.trace_id
        return trace_id_of(_decision_id(self.done[0])) if self.done else None


class Sink(Protocol):
    """The receiver of requests whose spans are wanted."""

    def offer(self, item: AnsweredRequest, *, is_spare: bool) -> None: ...


class Traces:
    """Decides for every request that ends whether its spans are stored.

    Args:
        slo_s: model → seconds from which on an answer counts as slow.
        share: share (0-1) of the other requests to keep, if the caller has not decided that.
        shown: called for each kept decision with its model, its duration in seconds, and its trace.
    """

    def __init__(
        self,
        sink: Sink,
        slo_s: Mapping[str, float],
        share: float,
        shown: Callable[[str, float, str], None] = lambda model, latency_s, trace_id: None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._sink = sink
        self._slo_s = slo_s
        self._share = share
        self._shown = shown
        self._chance = chance

    def expect(self, slo_s: Mapping[str, float]) -> None:
        """Use these limits from now on; requests of other models may still be under way."""
        self._slo_s = {**self._slo_s, **slo_s}

    def end(
        self,
        operation: str,
        trace: TraceContext | None,
        started_s: float,
        status: int,
        done: Sequence[RequestOutcome],
        attributes: Callable[[], Attributes],
    ) -> bool:
        """Offer the request for spans if there is a reason. Returns whether it was."""
        sampled_for = self._sampled_for(trace, status, done)
        if sampled_for is None:
            return False
        now_s, is_error, shown = time.monotonic(), status >= 500, _first_of(done)
        ended = AnsweredRequest(
            operation, attributes(), trace, started_s, now_s, is_error, shown, sampled_for
        )
        self._sink.offer(ended, is_spare=sampled_for in SPARE)
        trace_id = ended.trace_id
        for each in shown:
            if isinstance(each, FinishedDecision) and trace_id is not None:
                latency_s = each.recorded_s - each.started_s
                self._shown(each.decided.routed.live.routes.model, latency_s, trace_id)
        return True

    def _sampled_for(
        self, trace: TraceContext | None, status: int, done: Sequence[RequestOutcome]
    ) -> SamplingReason | None:
        if status >= 500:
            return "error"
        for each in done:
            sampled_for = sampling_reason(each, self._slo_s)
            if sampled_for is not None:
                return sampled_for
        if trace is not None and trace.parent_id is not None:
            return "caller" if trace.is_sampled else None
        return "share" if self._chance() < self._share else None


def sampling_reason(done: RequestOutcome, slo_s: Mapping[str, float]) -> SamplingReason | None:
    """Why this outcome alone makes a request worth its spans; None if it does not."""
    if isinstance(done, AcceptedForLater):
        return None
    if not done.is_recorded:
        return "error"
    routed = done.decided.routed
    if done.decided.degraded_reason is not None:
        return "degraded"
    if routed.assignment.arm == "challenger":
        return "canary"  # even if slow: in an overload all are slow, and these must stay
    is_slow = done.recorded_s - done.started_s > slo_s[routed.live.routes.model]
    return "slow" if is_slow else None


def build(ended: AnsweredRequest) -> Trace:
    """The spans of a request, with the request's own first."""
    done, trace = ended.done, ended.trace
    parent_id = trace.parent_id if trace is not None else None
    if trace is not None:
        span_id = trace.span_id
    else:
        span_id = derived_span_id(_decision_id(ended.done[0])) if done else new_span_id()
    own = {**ended.attributes, signals.KEPT_FOR: ended.sampled_for}
    spans: list[Span] = []
    if len(done) == 1 and isinstance(done[0], FinishedDecision) and done[0].accepted is None:
        own |= _decision_attributes(done[0])
        spans += _steps(done[0], span_id)
    else:
        for each in done:
            spans += (
                _accepted(each, span_id)
                if isinstance(each, AcceptedForLater)
                else _decision(each, span_id)
            )
    kind, model = signals.REQUEST_SPAN, _model(done[0]) if done else ""
    name = kind.name.format(operation=ended.operation, model=model).strip()
    request = Span(
        kind, name, span_id, parent_id, ended.started_s, ended.ended_s, own, ended.is_error
    )
    trace_id = ended.trace_id or new_span_id() + new_span_id()
    return Trace(trace_id, (request, *spans), parent_id is not None, ended.sampled_for in SPARE)


def _first_of(done: Sequence[RequestOutcome]) -> Sequence[RequestOutcome]:
    """The decisions whose spans a trace shows: the first one, then those with a fault before
    others.

    The first stays the first, because a trace that no caller began has its name. A batch may hold a
    thousand, and this runs on the event loop: they are looked at once, not sorted.
    """
    if len(done) <= MAX_DECISIONS:
        return done
    others = itertools.islice(done, 1, None)
    return [done[0], *heapq.nsmallest(MAX_DECISIONS - 1, others, key=_is_ordinary)]


def _is_ordinary(done: RequestOutcome) -> tuple[bool, float]:
    if isinstance(done, AcceptedForLater):
        return True, 0.0
    is_wrong = not done.is_recorded or done.decided.degraded_reason is not None
    is_canary = done.decided.routed.assignment.arm == "challenger"
    return not (is_wrong or is_canary), done.started_s - done.recorded_s


def _decision_id(done: RequestOutcome) -> str:
    return (
        done.decision_id if isinstance(done, AcceptedForLater) else done.decided.routed.decision_id
    )


def _model(done: RequestOutcome) -> str:
    return (
        done.model if isinstance(done, AcceptedForLater) else done.decided.routed.live.routes.model
    )


def _accepted(taken: AcceptedForLater, parent_id: str) -> list[Span]:
    kind, topic = signals.ACCEPT_SPAN, requests_topic(taken.model)
    attributes = {
        signals.MODEL_NAME: taken.model,
        signals.DECISION_ID: taken.decision_id,
        signals.TOPIC: topic,
    }
    span_id = derived_span_id(taken.decision_id, ACCEPTED)
    name = kind.name.format(topic=topic)
    at_s = taken.started_s, taken.recorded_s
    return [Span(kind, name, span_id, parent_id, *at_s, attributes)]


def _decision(finished: FinishedDecision, parent_id: str) -> list[Span]:
    kind, span_id = signals.DECISION_SPAN, new_span_id()
    own = Span(
        kind,
        kind.name,
        span_id,
        parent_id,
        finished.started_s,
        finished.recorded_s,
        _decision_attributes(finished),
        is_error=not finished.is_recorded,
        links=(Link(*finished.accepted),) if finished.accepted else (),
    )
    return [own, *_steps(finished, span_id)]


def _decision_attributes(finished: FinishedDecision) -> Attributes:
    decided = finished.decided
    routes, arm = decided.routed.live.routes, decided.arm
    return {
        signals.MODEL_NAME: routes.model,
        signals.MODEL_VERSION: arm.version if arm else None,
        signals.DECISION_ID: decided.routed.decision_id,
        signals.ROUTE_ARM: decided.routed.assignment.arm,
        signals.GENERATION_USED: routes.generation,
        signals.ANSWERED_BY: decided.verdict.answered_by,
        signals.DEGRADED_REASON: decided.degraded_reason,
    }


def _steps(finished: FinishedDecision, parent_id: str) -> list[Span]:
    """The spans of a decision's steps, in order."""
    decided, found = finished.decided, []
    features, predict, record = signals.FEATURES_SPAN, signals.PREDICT_SPAN, signals.RECORD_SPAN
    if decided.routed.read_s:
        read_s = decided.routed.read_s
        found.append(Span(features, features.name, new_span_id(), parent_id, *read_s))
    for failure in decided.failures:
        if failure.asked_s:  # an open breaker or full bulkhead makes no call
            span_id = derived_span_id(decided.routed.decision_id, step_place(failure.step))
            name, asked_s = predict.name.format(step=failure.step), failure.asked_s
            why = {signals.ERROR_TYPE: failure.reason}
            found.append(
                Span(predict, name, span_id, parent_id, asked_s, failure.failed_s, why, True)
            )
    found += _prediction(decided.routed.decision_id, decided.prediction, parent_id)
    is_lost = not finished.is_recorded
    lost = {signals.ERROR_TYPE: "unrecorded"} if is_lost else {}
    at_s = decided.decided_s, finished.recorded_s
    found.append(Span(record, record.name, new_span_id(), parent_id, *at_s, lost, is_lost))
    return found


def _prediction(decision_id: str, found: Prediction | None, parent_id: str) -> list[Span]:
    """The call that gave the score, and the predictor's part in it, as the predictor reports it."""
    if found is None or found.cached:
        return []
    kind, inner = signals.PREDICT_SPAN, signals.INFER_SPAN
    span_id = derived_span_id(decision_id, step_place(found.step))
    name, at_s = kind.name.format(step=found.step), (found.asked_s, found.answered_s)
    spans = [Span(kind, name, span_id, parent_id, *at_s)]
    took_ms = timings(found.timing)
    if took_ms:
        service, call_s = found.target.arm.service, found.answered_s - found.asked_s
        took_s = min(sum(took_ms.values()) / 1000, call_s)
        start_s = found.asked_s + (call_s - took_s) / 2
        name, of = inner.name.format(service=service), ProcessIdentity(inner.of, service)
        at_s = start_s, start_s + took_s
        spans.append(Span(inner, name, new_span_id(), span_id, *at_s, took_ms, of=of))
    return spans


def timings(header: bytes) -> dict[Attribute, float]:
    """A predictor's report of its own time, in its Server-Timing header.

    Source: W3C Server Timing; entries that are not as we write them are passed over.
    """
    found = {}
    for entry in header.split(b","):
        name, _, duration = entry.strip().partition(b";dur=")
        if name in _TIMINGS:
            try:
                found[_TIMINGS[name]] = float(duration)
            except ValueError:
                continue
    return found
